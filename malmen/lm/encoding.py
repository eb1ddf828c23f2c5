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
    """The tuples of a fact, tokenised, and the row they come from, which MEMIT reads.

    The fourth asks for what follows from the fact; a file of rows has it in all of them or none.
    """

    edit: Example
    equivalent: Example
    unrelated: Example
    row: Row | None = None
    portability: Example | None = None

    @property
    def tuples(self) -> tuple[Example, ...]:
        """All of them: edit, equivalent, unrelated and, where there is one, portability."""
        three = (self.edit, self.equivalent, self.unrelated)
        return three if self.portability is None else (*three, self.portability)


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
    asks_on = all(row.follow_up for row in rows)
    facts, refused = [], []
    for row in rows:
        pairs = (
            (row.heading, row.answer),
            (draw.choice(row.paraphrases), row.answer),
            row.unrelated,
        )
        try:
            edit, equivalent, unrelated = (lm.encode(*pair) for pair in pairs)
            follow_up = lm.encode(*row.follow_up) if asks_on and row.follow_up else None
            facts.append(EncodedFact(edit, equivalent, unrelated, row, follow_up))
        except InputError as error:
            refused.append((row.where, str(error)))
    if refused:
        (where, what), *others = refused
        more = f"; {len(others)} more: {', '.join(w for w, _ in others[:20])}" if others else ""
        raise InputError(f"{where}: {what}{more} (`malmen data check` lists all)")
    return facts
