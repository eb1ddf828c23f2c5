"""From rows to tokenised facts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from malmen.data.rows import Row
from malmen.lm.batches import Example
from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError

__all__ = ["EncodedFact", "encode_rows"]


@dataclass(frozen=True)
class EncodedFact:
    """The three tuples of a fact, tokenised, and the row they come from, which MEMIT reads."""

    edit: Example
    equivalent: Example
    unrelated: Example
    row: Row | None = None


def encode_rows(lm: LanguageModel, rows: Sequence[Row], *, seed: int) -> list[EncodedFact]:
    """Tokenise rows; of several paraphrases one is drawn.

    Args:
        lm: whose tokenizer is used.
        rows: of the shape that ``lm`` reads.
        seed: of the draw.

    Returns:
        One encoded fact a row, in the same order.

    Raises:
        InputError: rows cannot be tokenised; their places are named, and what is wrong first.
    """
    draw = random.Random(seed)
    facts, refused = [], []
    for row in rows:
        pairs = (
            (row.heading, row.answer),
            (draw.choice(row.paraphrases), row.answer),
            row.unrelated,
        )
        try:
            edit, equivalent, unrelated = (lm.encode(*pair) for pair in pairs)
            facts.append(EncodedFact(edit, equivalent, unrelated, row))
        except InputError as error:
            refused.append((row.where, str(error)))
    if refused:
        (where, what), *others = refused
        more = f"; {len(others)} more: {', '.join(w for w, _ in others[:20])}" if others else ""
        raise InputError(f"{where}: {what}{more} (`malmen data check` lists all)")
    return facts
