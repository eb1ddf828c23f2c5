import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    EDITORS,
    KINDS,
    bits,
    examples_of,
    plain_logits,
    random_facts,
    random_shifts,
    tiny_lm,
)
from torch import Tensor

from baselines.fine_tuning import FineTuning
from baselines.ultraedit import UltraEdit
from malmen.data.rows import ZsreRow
from malmen.editor import Demanding, Editor, Remembering, Shifts
from malmen.evaluation import check_pool, edit_and_score, evaluate, score_facts
from malmen.lm.batches import Example
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.recording.frozen import record_prefix, replay
from malmen.results.metrics import METRICS, PRE_EDIT_METRICS
from malmen.settings import FineTuningSettings, HyperSettings, TokenSettings
from malmen.support.errors import InputError

kinds = pytest.mark.parametrize("kind", KINDS)

BOUNDARIES = {"es": "edit", "gs": "equivalent", "ls": "unrelated"}


class Fixed:
    """An editor whose shifts depend on how many edits there are, and on which comes first."""

    def __init__(self) -> None:
        self.edits: list[tuple[EncodedFact, ...]] = []

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        self.edits.append(tuple(facts))
        return random_shifts(lm, scale=0.5, seed=len(facts) + facts[0].edit.ids[0])


def learnable_facts(lm: LanguageModel, n: int) -> list[EncodedFact]:
    """Return facts of which the unedited model has some answers right."""

    def fact(index: int, example: Example) -> Example:
        predicted = plain_answers(lm, example)
        right = [(index // 3 + index + place) % 3 > 0 for place in range(len(predicted))]
        targets = [p if r else t for p, r, t in zip(predicted, right, example.targets, strict=True)]
        return replace(example, targets=tuple(targets))

    examples = [
        fact(i, example)
        for i, example in enumerate(examples_of(random_facts(lm.entry.name[5:], n)))
    ]
    return [EncodedFact(*examples[3 * i : 3 * i + 3]) for i in range(n)]


def plain_answers(
    lm: LanguageModel, example: Example, shifts: Mapping[str, Tensor] | None = None
) -> list[int]:
    with torch.no_grad():
        logits = plain_logits(lm, example, shifts)
    if lm.entry.task == "verdict":
        return [int(logits.item() > 0)]
    return [max(range(len(row)), key=row.__getitem__) for row in logits.tolist()]


def plain_frame(
    editor: Editor, lm: LanguageModel, facts: list[EncodedFact], counts: list[int], sets: int
) -> pd.DataFrame:
    """Score as the definitions say: one example at a time, one answer at a time."""
    rows = []
    for count in counts:
        for edit_set in range(sets):
            chosen = list(range(edit_set * count, (edit_set + 1) * count))
            shifts = editor.edit(lm, [facts[i] for i in chosen])
            for index in chosen:
                row: dict[str, object] = {"edits": count, "edit_set": edit_set, "fact": index}
                for metric, name in BOUNDARIES.items():
                    example: Example = getattr(facts[index], name)
                    for prefix, used in (("", shifts), ("pre_", None)):
                        answers = plain_answers(lm, example, used)
                        right = [a == t for a, t in zip(answers, example.targets, strict=True)]
                        row[f"{prefix}{metric}"] = sum(right) / len(right)
                        row[f"{prefix}{metric}_exact"] = all(right)
                after = plain_answers(lm, facts[index].unrelated, shifts)
                before = plain_answers(lm, facts[index].unrelated)
                agree = [a == b for a, b in zip(after, before, strict=True)]
                row["ls_consistency"] = sum(agree) / len(agree)
                rows.append(row)
    return pd.DataFrame(rows)


def assert_same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        found[sorted(found)], wanted[sorted(wanted)], check_exact=False, rtol=1e-12, atol=0
    )


def run(
    lm: LanguageModel, facts: list[EncodedFact], counts: list[int], sets: int, *, size: int = 4
) -> pd.DataFrame:
    editors = dict.fromkeys(counts, Fixed())
    return scores(editors, lm, facts, counts=counts, sets=sets, size=size)


def scores(
    editors: Mapping[int, Editor], lm: LanguageModel, facts: list[EncodedFact], **options: Any
) -> pd.DataFrame:
    return evaluate(editors, lm, facts, progress=False, **options).scores


@kinds
@pytest.mark.parametrize("size", [1, 3, 100])
def test_scores_are_those_of_the_definitions_at_any_batch_size(kind: str, size: int) -> None:
    lm = tiny_lm(kind)
    facts = learnable_facts(lm, 13)
    found = run(lm, facts, [1, 3, 6], 2, size=size)
    wanted = plain_frame(Fixed(), lm, facts, [1, 3, 6], 2)
    assert_same(found, wanted)
    # The facts make every kind of score occur.
    for column in ("es", "gs", "ls", "pre_es", "pre_gs", "pre_ls", "ls_consistency"):
        assert found[column].nunique() > 1, column
    if kind != "bert":
        assert ((found["pre_es"] > 0) & (found["pre_es"] < 1)).any()


@kinds
def test_columns_are_those_of_the_results(kind: str) -> None:
    lm = tiny_lm(kind)
    frame = run(lm, random_facts(kind, 4), [2], 2)
    assert set(frame) == {"edits", "edit_set", "fact", *METRICS, *PRE_EDIT_METRICS}
    for column in (*METRICS, *PRE_EDIT_METRICS):
        wanted = bool if column.endswith("exact") else float
        assert frame[column].dtype == wanted, column


LLAMA, LLAMA_FACTS = tiny_lm("llama"), random_facts("llama", 15)


@settings(max_examples=settings.default.max_examples // 3)
@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True), sets=st.integers(1, 3)
)
def test_edit_sets_of_a_count_are_disjoint_and_edited_at_once(counts: list[int], sets: int) -> None:
    lm, facts = LLAMA, LLAMA_FACTS
    editors = {count: Fixed() for count in counts}
    frame = scores(editors, lm, facts, counts=counts, sets=sets, size=99)
    assert len(frame) == sets * sum(counts)
    for count in counts:
        rows = frame[frame["edits"] == count]
        assert sorted(rows["fact"]) == list(range(count * sets))  # each once
        assert rows.groupby("edit_set").size().tolist() == [count] * sets
        edited = editors[count].edits  # each count has its own editor
        assert edited == [
            tuple(facts[i] for i in group["fact"]) for _, group in rows.groupby("edit_set")
        ]


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_model_is_whole_afterwards(kind: str, dtype: torch.dtype) -> None:
    lm = tiny_lm(kind, dtype=dtype)
    facts = random_facts(kind, 6)
    before = bits(lm.model)
    parameters = list(lm.model.parameters())
    once = run(lm, facts, [1, 3], 2)
    assert bits(lm.model) == before
    assert all(a is b for a, b in zip(lm.model.parameters(), parameters, strict=True))
    assert_same(run(lm, facts, [1, 3], 2), once)


@kinds
def test_scores_before_editing_do_not_depend_on_the_edit(kind: str) -> None:
    lm = tiny_lm(kind)
    frame = run(lm, learnable_facts(lm, 8), [1, 2, 4], 2)
    columns = list(PRE_EDIT_METRICS)
    assert (frame.groupby("fact")[columns].nunique() == 1).all(axis=None)


@kinds
def test_no_shift_scores_as_before_and_agrees_with_itself(kind: str) -> None:
    class Nothing:
        def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
            return lm.zero_shifts()

    lm = tiny_lm(kind)
    facts = learnable_facts(lm, 6)
    frame = scores({3: Nothing()}, lm, facts, counts=[3], sets=2, size=4)
    for column in PRE_EDIT_METRICS:
        assert frame[column].tolist() == frame[column.removeprefix("pre_")].tolist()
    assert (frame["ls_consistency"] == 1).all()


@kinds
@pytest.mark.parametrize("name", [*EDITORS, "ft", "ultraedit"])
def test_every_editor_is_scored_the_same_on_the_frozen_prefix(kind: str, name: str) -> None:
    full, upper = tiny_lm(kind), tiny_lm(kind)
    facts = random_facts(kind, 6)
    replay(upper, record_prefix(full, examples_of(facts), progress=False))
    if name == "ft":
        editor: Editor = FineTuning(FineTuningSettings(learning_rate=1e-2), seed=0)
    elif name == "ultraedit":
        editor = UltraEdit(full.shapes, TokenSettings(learning_rate=1e-2))
    else:
        torch.manual_seed(0)
        editor = EDITORS[name](full.shapes, HyperSettings(rank=4, learning_rate=1e-2)).double()
    one, other = (
        scores({3: editor}, lm, facts, counts=[3], sets=2, size=4) for lm in (full, upper)
    )
    assert_same(one, other)


def test_the_time_of_editing_is_that_of_making_the_shifts() -> None:
    class Slow(Fixed):
        def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
            time.sleep(0.02 * len(facts))
            return super().edit(lm, facts)

    started = time.perf_counter()
    editing = evaluate(
        *({1: Slow(), 3: Slow()}, LLAMA, LLAMA_FACTS),
        counts=[1, 3], sets=2, size=4, progress=False,
    ).editing  # fmt: skip
    whole = time.perf_counter() - started
    sets = [(entry["edits"], entry["edit_set"]) for entry in editing]
    assert sets == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert all(entry["seconds"] >= 0.02 * entry["edits"] for entry in editing)
    assert sum(entry["seconds"] for entry in editing) < whole


def test_what_an_editor_remembers_counts_as_time_of_editing() -> None:
    class Elephant(Fixed, Remembering):
        remembered_seconds = 1000.0

    [found] = evaluate(
        {2: Elephant()}, LLAMA, LLAMA_FACTS, counts=[2], sets=1, size=4, progress=False
    ).editing
    assert 1000 < found["seconds"] < 2000


def test_an_editor_may_refuse_facts_before_any_is_edited() -> None:
    class Choosy(Fixed, Demanding):
        def check(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> None:
            if LLAMA_FACTS[5] in facts:
                raise InputError("not the last one")

    editor = Choosy()
    with pytest.raises(InputError, match="not the last one"):
        evaluate({3: editor}, LLAMA, LLAMA_FACTS, counts=[3], sets=2, size=4, progress=False)
    assert not editor.edits
    evaluate({1: editor}, LLAMA, LLAMA_FACTS, counts=[1], sets=5, size=4, progress=False)
    assert len(editor.edits) == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_shift_that_is_not_finite_is_refused(value: float) -> None:
    class Wild(Fixed):
        def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
            shifts = dict(super().edit(lm, facts))
            list(shifts.values())[-1][0, 0] = value
            return shifts

    layer = list(LLAMA.shapes)[-1]
    with pytest.raises(ArithmeticError, match=f"Wild: the shift of {layer} is not finite after 2"):
        evaluate({2: Wild()}, LLAMA, LLAMA_FACTS, counts=[2], sets=1, size=4, progress=False)


def test_edited_unrelated_prompts_are_counted() -> None:
    def row(i: int, loc: str) -> ZsreRow:
        return ZsreRow(None, f"Who is {i}?", ("a",), f"answer {i}", loc, "x")

    rows = [row(0, "who is 1"), row(1, "Where?"), row(2, "Who is 0?"), row(3, "Who is 3?")]
    facts = [replace(f, row=r) for f, r in zip(LLAMA_FACTS, rows, strict=False)]
    editing = evaluate(
        dict.fromkeys([2, 1], Fixed()), LLAMA, facts, counts=[2, 1], sets=2, size=4, progress=False
    ).editing
    assert [entry["overwritten"] for entry in editing] == [1, 1, 0, 0]


def test_edit_and_score_edits_all_its_facts() -> None:
    lm = tiny_lm("gpt2")
    facts = learnable_facts(lm, 5)
    editor = Fixed()
    found = edit_and_score(editor, lm, facts, size=2)
    assert editor.edits == [tuple(facts)]
    shifts = Fixed().edit(lm, facts)
    predicted = [token for fact in facts for token in plain_answers(lm, fact.equivalent, shifts)]
    assert found.equivalent.tokens.tolist() == predicted
    assert score_facts(lm, facts, size=5).equivalent.tokens.tolist() != predicted


# --- the pool ---


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    sets=st.integers(1, 5),
    pool=st.integers(0, 100),
)
def test_a_pool_is_accepted_if_it_holds_every_count(
    counts: list[int], sets: int, pool: int
) -> None:
    largest = max(counts) * sets
    if largest <= pool:
        check_pool(counts, sets=sets, pool=pool)
        return
    with pytest.raises(InputError, match=rf"need \d+ facts, and the pool has {pool}: lower"):
        check_pool(counts, sets=sets, pool=pool)


@pytest.mark.parametrize("counts", [[0], [4, 0], [-4]])
def test_counts_that_are_not_positive_are_refused(counts: list[int]) -> None:
    with pytest.raises(InputError):
        check_pool(counts, sets=2, pool=100)


def test_no_sets_are_refused() -> None:
    with pytest.raises(InputError):
        check_pool([4], sets=0, pool=100)


def test_evaluation_checks_the_pool_before_it_scores_anything() -> None:
    lm = tiny_lm("llama")
    editor = Fixed()
    with pytest.raises(InputError, match=r"8 edits in 2 disjoint sets need 16 facts, .* has 15"):
        evaluate(
            {2: editor, 8: editor},
            lm,
            random_facts("llama", 15),
            counts=[2, 8],
            sets=2,
            size=4,
            progress=False,
        )
    assert not editor.edits
