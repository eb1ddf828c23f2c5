"""From rows to tokenised facts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from malmen.data.rows import Row, ZsreRow
from malmen.lm.batches import Example
from malmen.lm.language_model import LanguageModel

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
        InputError: an answer tokenises to nothing.
    """
    draw = random.Random(seed)
    facts = []
    for row in rows:
        if isinstance(row, ZsreRow):
            edit, paraphrases, unrelated = row.src, row.rephrase, (row.loc, row.loc_ans)
            answer = row.ans
        else:
            edit, paraphrases, unrelated = (
                row.prompt,
                row.equiv_prompt,
                (row.unrel_prompt, row.unrel_ans),
            )
            answer = row.alt
        facts.append(
            EncodedFact(
                lm.encode(edit, answer),
                lm.encode(draw.choice(paraphrases), answer),
                lm.encode(*unrelated),
                row,
            )
        )
    return facts
