"""What an edited language model writes by itself when it is asked about facts: a second ruler.

Under teacher forcing a language model is shown the answer's own tokens, which flatters editors.
Here it has the prompt alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import nn

from malmen.lm.encoding import EncodedFact
from malmen.lm.generation import Writer, prompt_of
from malmen.lm.language_model import LanguageModel
from malmen.results.matching import exact_match, token_f1

__all__ = ["KINDS", "Exchange", "Interview", "scores"]

KINDS: dict[str, str] = {"es": "edit", "gs": "paraphrase", "ls": "unrelated", "ps": "portability"}
"""The kinds of prompts, by the measures that their answers give."""


@dataclass(frozen=True)
class Exchange:
    """One prompt, and what was written before and after an edit.

    Attributes:
        fact: number of the fact in the pool.
        subject: what the fact is about, empty where the data do not say.
        kind: one of `KINDS`.
        prompt: as the data have it.
        target: the data's answer.
        before: what the unedited language model writes.
        after: what the edited one writes.
    """

    fact: int
    subject: str
    kind: str
    prompt: str
    target: str
    before: str
    after: str


class Interview:
    """Asks a language model about edited facts.

    Args:
        lm: a language model that completes prompts, all blocks present.
        facts: of an edit set, the first so many are asked about.
        chat: whether a prompt is put as a user's turn of a chat.
        size: prompts at a time.
    """

    def __init__(
        self, lm: LanguageModel, *, facts: int, chat: bool = False, size: int = 128
    ) -> None:
        self._lm, self._facts, self._chat, self._size = lm, facts, chat, size
        self._before: dict[tuple[int, ...], str] = {}

    def ask(
        self, facts: Mapping[int, EncodedFact], weights: Mapping[str, nn.Parameter]
    ) -> list[Exchange]:
        """Ask about the first facts of an edit set, by their numbers in the pool."""
        asked = [
            (number, fact, kind, example)
            for number, fact in list(facts.items())[: self._facts]
            for kind, example in zip(KINDS.values(), fact.tuples, strict=False)
        ]
        prompts = [prompt_of(self._lm, example, chat=self._chat) for *_, example in asked]
        writer = Writer(self._lm, prompts, size=self._size)
        if not self._before.keys() >= set(prompts):
            texts = [answer.text for answer in writer.answers()]
            self._before |= dict(zip(prompts, texts, strict=True))
        return [
            Exchange(
                fact=number,
                subject=(fact.row and fact.row.subject) or "",
                kind=kind,
                prompt=self._read(prompt_of(self._lm, example)),
                target=self._read(example.targets),
                before=self._before[prompt],
                after=answer.text,
            )
            for (number, fact, kind, example), prompt, answer in zip(
                asked, prompts, writer.answers(weights), strict=True
            )
        ]

    def _read(self, tokens: Sequence[int]) -> str:
        return str(self._lm.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def scores(exchanges: Sequence[Exchange]) -> pd.DataFrame:
    """Return the columns of `malmen.results.metrics` that generated answers give.

    Returns:
        One row a fact, by its number.
    """
    measures = {kind: measure for measure, kind in KINDS.items()}
    rows: dict[int, dict[str, Any]] = {}
    for exchange in exchanges:
        row, measure = rows.setdefault(exchange.fact, {}), measures[exchange.kind]
        for prefix, text in (("", exchange.after), ("pre_", exchange.before)):
            row[f"{prefix}{measure}_generated"] = exact_match(text, exchange.target)
            row[f"{prefix}{measure}_f1"] = token_f1(text, exchange.target)
        if exchange.kind == "unrelated":
            row["ls_consistency_generated"] = exact_match(exchange.after, exchange.before)
    return pd.DataFrame.from_dict(rows, orient="index")
