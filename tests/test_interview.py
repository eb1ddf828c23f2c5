from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tiny_models import bits, random_shifts, tiny_lm

from malmen.data.rows import ZsreRow
from malmen.editor import Shifts
from malmen.evaluation import evaluate
from malmen.interview import Exchange, Interview, scores
from malmen.lm.encoding import EncodedFact, encode_rows
from malmen.lm.generation import Writer, prompt_of
from malmen.lm.language_model import LanguageModel
from malmen.results.metrics import FURTHER

ROWS = [
    ZsreRow(
        subject=f"City {i}" if i else None,
        src=f"Where is City {i}?",
        rephrase=(f"City {i} is in",),
        ans="Lima Peru",
        loc=f"What is the capital of France {i}?",
        loc_ans="Paris",
    )
    for i in range(6)
]


class Shove:
    """An editor that shifts at random, and by how much depends on the number of facts."""

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        return random_shifts(lm, scale=5.0 * len(facts))


class Nothing:
    """An editor that changes nothing."""

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        return lm.zero_shifts()


@pytest.fixture(params=["llama", "t5"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny_lm(request.param)


def test_what_is_asked_and_written(lm: LanguageModel) -> None:
    facts = encode_rows(lm, ROWS, seed=0)
    weights = lm.edited_weights(random_shifts(lm, scale=5.0))
    exchanges = Interview(lm, facts=2).ask({4: facts[4], 0: facts[0], 5: facts[5]}, weights)
    assert [(e.fact, e.subject, e.kind) for e in exchanges] == [
        (fact, subject, kind)
        for fact, subject in ((4, "City 4"), (0, ""))
        for kind in ("edit", "paraphrase", "unrelated")
    ]
    assert [(e.prompt, e.target) for e in exchanges[:3]] == [
        ("Where is City 4?", "Lima Peru"),
        ("City 4 is in", "Lima Peru"),
        ("What is the capital of France 4?", "Paris"),
    ]
    asked = [example for i in (4, 0) for example in facts[i].tuples]
    writer = Writer(lm, [prompt_of(lm, example) for example in asked])
    assert [e.before for e in exchanges] == [a.text for a in writer.answers()]
    assert [e.after for e in exchanges] == [a.text for a in writer.answers(weights)]


def exchange(kind: str, target: str, before: str, after: str, *, fact: int = 7) -> Exchange:
    return Exchange(fact, "", kind, "Where?", target, before, after)


def test_scores_of_what_is_written() -> None:
    frame = scores(
        [
            exchange("edit", "Lima, Peru", "Rome", "the Lima Peru!"),
            exchange("paraphrase", "Lima, Peru", "Lima", "Lima or Rome"),
            exchange("unrelated", "Paris", "Rome", "rome"),
            exchange("portability", "South America", "", "South America"),
            exchange("edit", "Oslo", "Oslo", "Rome", fact=9),
        ]
    )
    assert list(frame.index) == [7, 9]
    assert frame.loc[7].to_dict() == {
        "es_generated": 1, "es_f1": 1, "pre_es_generated": 0, "pre_es_f1": 0,
        "gs_generated": 0, "gs_f1": 0.4, "pre_gs_generated": 0, "pre_gs_f1": pytest.approx(2 / 3),
        "ls_generated": 0, "ls_f1": 0, "pre_ls_generated": 0, "pre_ls_f1": 0,
        "ls_consistency_generated": 1,
        "ps_generated": 1, "ps_f1": 1, "pre_ps_generated": 0, "pre_ps_f1": 0,
    }  # fmt: skip
    assert frame.loc[9, "pre_es_generated"] == 1
    assert frame.loc[9, ["gs_f1", "ls_f1"]].isna().all()
    assert {name.removeprefix("pre_") for name in frame} <= set(FURTHER)


def test_an_evaluation_with_an_interview_scores_the_first_facts_of_each_set(
    lm: LanguageModel,
) -> None:
    facts = encode_rows(lm, ROWS, seed=0)
    before = bits(lm.model)
    editors = {1: Shove(), 3: Shove()}
    options: Any = {"counts": [1, 3], "sets": 2, "size": 4, "progress": False}
    plain = evaluate(editors, lm, facts, **options)
    asked = evaluate(editors, lm, facts, interview=Interview(lm, facts=2), **options)
    assert asked.scores[list(plain.scores)].equals(plain.scores)
    assert bits(lm.model) == before
    known = asked.scores[asked.scores["es_generated"].notna()]
    assert known[["edits", "edit_set", "fact"]].to_numpy().tolist() == [
        [1, 0, 0], [1, 1, 1], [3, 0, 0], [3, 0, 1], [3, 1, 3], [3, 1, 4]
    ]  # fmt: skip
    assert len(asked.exchanges) == 3 * len(known)
    # A fact that is asked about in two sets is asked with the weights of each.
    after = {(e["edits"], e["kind"]): e["after"] for e in asked.exchanges if e["fact"] == 0}
    assert after[1, "edit"] != after[3, "edit"]
    for entry in asked.exchanges:
        shifts = Shove().edit(lm, facts[: entry["edits"]])
        if entry["kind"] == "edit":
            prompt = prompt_of(lm, facts[entry["fact"]].edit)
            [answer] = Writer(lm, [prompt]).answers(lm.edited_weights(shifts))
            assert entry["after"] == answer.text


def test_no_edit_changes_no_answer(lm: LanguageModel) -> None:
    found = evaluate(
        *({3: Nothing()}, lm, encode_rows(lm, ROWS, seed=0)),
        counts=[3], sets=2, size=4, progress=False, interview=Interview(lm, facts=3),
    )  # fmt: skip
    assert (found.scores["ls_consistency_generated"] == 1).all()
    assert all(entry["before"] == entry["after"] for entry in found.exchanges)


def test_portability_is_scored_where_all_rows_have_it(lm: LanguageModel) -> None:
    rows = [replace(row, port="On which continent?", port_ans="America") for row in ROWS]
    [partly, whole] = (encode_rows(lm, some, seed=0) for some in ([*rows[1:], ROWS[0]], rows))
    assert all(len(fact.tuples) == 3 for fact in partly)
    assert all(fact.portability == lm.encode("On which continent?", "America") for fact in whole)
    frame = evaluate(
        *({3: Shove()}, lm, whole),
        counts=[3], sets=2, size=4, progress=False, interview=Interview(lm, facts=1),
    ).scores  # fmt: skip
    assert frame[["ps", "pre_ps"]].notna().all(axis=None)
    assert frame["ps_generated"].notna().sum() == 2
