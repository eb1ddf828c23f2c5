"""What facts of GeoNames become: rows whose unrelated prompts are known, and a small corpus."""

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Literal

import torch

from malmen.data.geonames import claims, rows, splits
from malmen.data.geonames.facts import Fact, read_facts
from malmen.data.rows import FeverRow, ZsreRow, write_rows
from malmen.experiment.loading import load
from malmen.experiment.options import RowMaking
from malmen.lm.language_model import LanguageModel
from malmen.lm.predictions import predict
from malmen.lm.sampling import sample_texts
from malmen.support.errors import InputError
from malmen.support.progress import Progress

__all__ = ["SPLITS", "desk_texts", "known_prompts", "make_rows", "write_splits"]

logger = logging.getLogger(__name__)

SplitName = Literal["train", "validation", "evaluation"]

SPLITS: tuple[SplitName, ...] = ("train", "validation", "evaluation")

UNRELATED: dict[SplitName, splits.Split] = {
    "train": "unrelated_train",
    "validation": "unrelated_validation",
    "evaluation": "unrelated_evaluation",
}
"""The split whose facts are the unrelated prompts of another."""


def write_splits(options: RowMaking) -> None:
    """Make rows from GeoNames facts, and write a file a split.

    Raises:
        InputError: As of `make_rows`, or a file cannot be used.
    """
    model = load(options.lm, options.weights, device=options.device)
    facts = read_facts(options.facts)
    sizes = {split: getattr(options, split) for split in SPLITS}
    for split, made in make_rows(model, facts, sizes=sizes, seed=options.seed).items():
        write_rows(options.out_dir / f"{split}.jsonl", made)


def make_rows(
    lm: LanguageModel, facts: Sequence[Fact], *, sizes: Mapping[SplitName, int], seed: int
) -> dict[SplitName, list[ZsreRow] | list[FeverRow]]:
    """Make rows of the shape that ``lm`` reads, subjects disjoint between splits.

    ``lm`` is unedited, all blocks present; ``sizes`` are the numbers of rows; ``seed`` is of all
    draws.

    Raises:
        InputError: there are too few facts, or ``lm`` knows none of the unrelated ones.
    """
    shared = splits.split_subjects(facts, seed=seed)
    made: dict[SplitName, list[ZsreRow] | list[FeverRow]] = {}
    for split in SPLITS:
        pool = shared[UNRELATED[split]]
        n = sizes[split]
        if lm.entry.task == "completion":
            known = known_prompts(lm, rows.prompts_to_probe(pool), enough=n, name=split)
            made[split] = rows.zsre_rows(shared[split], known, n=n, seed=seed)
        else:
            probe = claims.claims_to_probe(pool, seed=seed)
            known = known_prompts(lm, probe, enough=n, name=split)
            made[split] = rows.fever_rows(shared[split], known, n=n, seed=seed)  # type: ignore[arg-type]
    return made


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
    """Return about ``enough`` (prompt, answer) pairs that ``lm`` gets right, every token of them.

    Args:
        lm: the language model, unedited.
        pairs: the most likely known first.
        enough: stop when as many are found.
        name: of the split, to show.
        fact_batch: pairs at a time.
        progress: show progress.

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


def desk_texts(
    lm: LanguageModel, facts: Sequence[Fact], *, n: int, length: int, seed: int
) -> list[str]:
    """Make a small corpus without any download: half of it facts, half sampled from ``lm``.

    Only subjects that are never edited occur, and none that locality is evaluated on. A sampled
    text begins with the first word of a fact's, and has ``length`` tokens at most.

    Raises:
        InputError: there are fewer facts than asked for.
    """
    prompts = rows.all_prompts(splits.split_subjects(facts, seed=seed)["unrelated_train"])
    half = (n + 1) // 2
    if not 0 < half <= len(prompts):
        raise InputError(f"{n} texts asked for; the facts give 1 to {2 * len(prompts)}")
    drawn = random.Random(seed).sample(prompts, half)
    stated = [f"{prompt} {answer}" for prompt, answer in drawn]
    starts = [text.split()[0] for text in stated[: n - half]]
    return stated + sample_texts(lm, starts, length=length, seed=seed)
