"""Claims with their true labels, from FEVER files: what a fact checker is trained and tested on."""

import random
from collections.abc import Sequence
from pathlib import Path

from malmen.data.raw_rows import RawRow, read_raw_rows
from malmen.data.rows import Label, label
from malmen.support.errors import InputError

__all__ = ["checker_claims", "read_claims"]


def read_claims(files: Sequence[Path]) -> dict[str, Label]:
    """Read every claim whose true label a file tells; the first of several labels counts.

    A raw claim (fields ``claim`` and ``label``) tells its own. A row to edit (``unrel_prompt`` and
    ``unrel_ans``) tells that of its unrelated claim: the label it edits in need not be true.

    A file that cannot be read or a malformed row raises an :class:`InputError` that says where.
    """
    claims: dict[str, Label] = {}
    for path in files:
        for raw in read_raw_rows(path):
            claims.setdefault(*_claim(raw))
    return claims


def checker_claims(
    files: Sequence[Path], held_out: Sequence[Path], *, n: int, n_held_out: int, seed: int
) -> tuple[list[tuple[str, Label]], list[tuple[str, Label]]]:
    """Draw claims to train a fact checker on, and others to test it on.

    Args:
        files: Claims to train on.
        held_out: Claims to test on; those that occur in ``files`` are left out.
        n: How many to train on, at most.
        n_held_out: How many to test on, at most.
        seed: Of the draws.

    Returns:
        (claim, label) of both kinds, shuffled.

    Raises:
        InputError: There is nothing to test on that is not trained on.
    """
    seen = read_claims(files)
    unseen = {claim: true for claim, true in read_claims(held_out).items() if claim not in seen}
    if not unseen:
        names = ", ".join(map(str, held_out))
        raise InputError(f"{names}: every claim is also trained on; name a file of other claims")
    draw = random.Random(seed)
    training, test = (
        draw.sample(list(claims.items()), min(size, len(claims)))
        for claims, size in ((seen, n), (unseen, n_held_out))
    )
    return training, test


def _claim(raw: RawRow) -> tuple[str, Label]:
    if raw.has("unrel_prompt"):
        return raw.text("unrel_prompt"), label(raw, "unrel_ans")
    return raw.text("claim"), label(raw, "label")
