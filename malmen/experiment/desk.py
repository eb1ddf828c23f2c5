"""Rows from GeoNames facts, with unrelated prompts that the language model gets right."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Literal

import torch

from malmen.data import geonames
from malmen.data.geonames import Fact
from malmen.data.rows import FeverRow, ZsreRow
from malmen.lm.language_model import LanguageModel
from malmen.lm.predictions import predict
from malmen.support.errors import InputError
from malmen.support.progress import Progress

__all__ = ["SPLITS", "known_prompts", "make_rows"]

logger = logging.getLogger(__name__)

SplitName = Literal["train", "validation", "evaluation"]

SPLITS: tuple[SplitName, ...] = ("train", "validation", "evaluation")

UNRELATED: dict[SplitName, geonames.Split] = {
    "train": "unrelated_train",
    "validation": "unrelated_validation",
    "evaluation": "unrelated_evaluation",
}
"""The split whose facts are the unrelated prompts of another."""


def make_rows(
    lm: LanguageModel, facts: Sequence[Fact], *, sizes: Mapping[SplitName, int], seed: int
) -> dict[SplitName, list[ZsreRow] | list[FeverRow]]:
    """Make rows of the shape that ``lm`` reads, subjects disjoint between splits.

    Args:
        lm: the language model, unedited, all blocks present.
        facts: all facts.
        sizes: number of rows of every split.
        seed: of all draws.

    Returns:
        The rows of every split.

    Raises:
        InputError: there are too few facts, or ``lm`` knows none of the unrelated ones.
    """
    splits = geonames.split_subjects(facts, seed=seed)
    rows: dict[SplitName, list[ZsreRow] | list[FeverRow]] = {}
    for split in SPLITS:
        pool = splits[UNRELATED[split]]
        n = sizes[split]
        if lm.entry.rows == "zsre":
            known = known_prompts(lm, geonames.prompts_to_probe(pool), enough=n, name=split)
            rows[split] = geonames.zsre_rows(splits[split], known, n=n, seed=seed)
        else:
            claims = geonames.claims_to_probe(pool, seed=seed)
            known = known_prompts(lm, claims, enough=n, name=split)
            rows[split] = geonames.fever_rows(splits[split], known, n=n, seed=seed)  # type: ignore[arg-type]
    return rows


@torch.no_grad()
def known_prompts(
    lm: LanguageModel,
    pairs: Iterable[tuple[str, str]],
    *,
    enough: int,
    name: str,
    fact_batch: int = 64,
    progress: bool = True,
) -> list[tuple[str, str]]:
    """Return the (prompt, answer) pairs that ``lm`` gets right, every token of them.

    Args:
        lm: the language model, unedited.
        pairs: the most likely known first.
        enough: stop when as many are found.
        name: of the split, to show.
        fact_batch: pairs at a time.
        progress: show progress.

    Returns:
        Known pairs, at most about ``enough``.

    Raises:
        InputError: it gets none right.
    """
    known: list[tuple[str, str]] = []
    probed = 0
    stage = f"what {lm.entry.title} knows, {name}"
    with Progress(stage, total=enough, unit="known prompts", show=progress) as bar:
        remaining = iter(pairs)
        while chunk := list(islice(remaining, 4 * fact_batch)):
            examples = [lm.encode(*pair) for pair in chunk]
            right = predict(lm, examples, size=fact_batch).accuracy() == 1
            found = [pair for pair, is_known in zip(chunk, right.tolist(), strict=True) if is_known]
            known += found
            probed += len(chunk)
            bar.update(len(found), probed=probed)
            if len(known) >= enough:
                break
    if not known:
        raise InputError(
            f"{lm.entry.name} gets none of {probed} unrelated prompts right, so locality could "
            "not be measured: use another language model, or train it longer"
        )
    logger.info("%s: %d of %d unrelated prompts known", name, len(known), probed)
    return known
