import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import bits, random_shifts, tiny_lm

from malmen.data.rows import ZsreRow
from malmen.editor import Shifts
from malmen.experiment.answers import before_and_after
from malmen.lm.batches import Example
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.reporting.summary import read_answers
from malmen.support.errors import InputError

ROWS = [
    ZsreRow(
        subject=f"City {i}" if i else None,
        src=f"Where is City {i}?",
        rephrase=(f"City {i} is in", "another wording"),
        ans="Lima Peru",
        loc="What is the capital of France?",
        loc_ans="Paris",
    )
    for i in range(3)
]


class Shove:
    """An editor that keeps what it is told and shifts at random."""

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        self.facts = list(facts)
        return random_shifts(lm, scale=5.0)


class Nothing:
    """An editor that changes nothing."""

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        return lm.zero_shifts()


@pytest.fixture(
    params=[("llama", torch.float32), ("llama", torch.bfloat16), ("t5", torch.float32)],
    ids=["llama-fp32", "llama-bf16", "t5-fp32"],
)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    kind, dtype = request.param
    return tiny_lm(kind, dtype=dtype)


def test_answers_are_what_the_summary_reads(lm: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    answers = before_and_after(Nothing(), lm, ROWS, show=2)
    path.write_text(json.dumps(answers), encoding="utf-8")
    shown = read_answers(path)
    assert [[entry["kind"] for entry in fact] for fact in shown] == [
        ["edit", "paraphrase", "unrelated"]
    ] * 2
    edit, paraphrase, unrelated = shown[1]
    assert (edit["subject"], edit["prompt"], edit["target"]) == ("City 1", ROWS[1].src, "Lima Peru")
    assert (paraphrase["prompt"], paraphrase["target"]) == ("City 1 is in", "Lima Peru")
    assert (unrelated["prompt"], unrelated["target"]) == (ROWS[1].loc, "Paris")
    assert shown[0][0]["subject"] == ""  # a row need not name its subject


def test_no_edit_changes_no_answer(lm: LanguageModel) -> None:
    for entry in before_and_after(Nothing(), lm, ROWS, show=3):
        assert entry["before"] == entry["after"]


def test_answers_are_greedy_and_as_long_as_their_targets(lm: LanguageModel) -> None:
    for entry in before_and_after(Nothing(), lm, ROWS, show=2):
        example = lm.encode(entry["prompt"], entry["target"])
        tokens: list[int] = []
        for _ in example.targets:  # one token at a time, each fed back
            (batch,) = lm.batches([fed(lm, example, tokens)], size=1)
            tokens.append(int(lm.logits(batch)[-1].argmax()))
        decoded = lm.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert entry["before"] == decoded


def fed(lm: LanguageModel, example: Example, tokens: list[int]) -> Example:
    """The example as it stands when the language model has answered ``tokens``."""
    if example.decoder_ids:
        start = example.decoder_ids[0]
        return Example(example.ids, (len(tokens),), (0,), (start, *tokens))
    prompt = example.ids[: len(example.ids) - len(example.targets) + 1]
    return Example((*prompt, *tokens), (len(prompt) + len(tokens) - 1,), (0,))


def test_an_edit_changes_answers_and_leaves_the_weights(lm: LanguageModel) -> None:
    before = bits(lm.model)
    editor = Shove()
    answers = before_and_after(editor, lm, ROWS, show=2)
    # All are edited, not only those shown.
    assert [fact.row for fact in editor.facts] == ROWS
    assert [fact.edit for fact in editor.facts] == [lm.encode(row.src, row.ans) for row in ROWS]
    assert any(entry["before"] != entry["after"] for entry in answers)
    assert bits(lm.model) == before
    assert [entry["before"] for entry in before_and_after(editor, lm, ROWS, show=2)] == [
        entry["before"] for entry in answers
    ]


def test_weights_return_after_a_failure(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bits(lm.model)
    name = lm.entry.edited[0]
    weight, generate = lm.layers[name].weight, lm.model.generate

    def interrupted(**options: Any) -> Any:
        if lm.layers[name].weight is not weight:
            raise KeyboardInterrupt
        return generate(**options)

    monkeypatch.setattr(lm.model, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        before_and_after(Shove(), lm, ROWS, show=1)
    assert lm.layers[name].weight is weight
    assert bits(lm.model) == before


def test_an_answer_of_no_tokens() -> None:
    row = ZsreRow(subject=None, src="a", rephrase=("b",), ans=" ", loc="c", loc_ans="d")
    with pytest.raises(InputError, match=r"the answer of .* tokenises to nothing"):
        before_and_after(Nothing(), tiny_lm("llama"), [row], show=1)
