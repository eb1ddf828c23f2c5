"""Rows from real files: drawn, completed and kept apart from other splits."""

import gzip
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_files import FEVER, ZSRE, write_lines

from malmen.data.importing import import_rows
from malmen.data.raw_rows import read_raw_rows
from malmen.data.rows import LABELS, FeverRow, loc_pair, overwritten
from malmen.support.errors import InputError


@given(
    names=st.lists(st.text("ab", min_size=1), min_size=1, unique=True), n_pairs=st.integers(1, 8)
)
def test_unrelated_pairs_are_attached_in_turn(tmp_path_factory, names, n_pairs):
    folder = tmp_path_factory.mktemp("pairs")
    bare = {k: v for k, v in ZSRE.items() if not k.startswith("loc")}
    rows = write_lines(folder / "rows.jsonl", *({**bare, "src": f"Who is {n}?"} for n in names))
    pairs = [{"loc": f"question {i}?", "loc_ans": f"answer {i}"} for i in range(n_pairs)]
    pairs = write_lines(folder / "pairs.jsonl", *pairs)
    got = import_rows([rows], task="completion", unrelated=pairs, n=None, seed=0)
    order = [row.loc for row in got]
    assert order == [order[i % n_pairs] for i in range(len(names))]
    assert len(set(order)) == min(n_pairs, len(names))
    assert {row.src for row in got} == {f"Who is {n}?" for n in names}


def test_rows_with_their_own_unrelated_question_keep_it(tmp_path):
    bare = {k: v for k, v in ZSRE.items() if not k.startswith("loc")}
    rows = write_lines(tmp_path / "rows.jsonl", ZSRE, {**bare, "src": "What?"})
    pairs = write_lines(tmp_path / "pairs.jsonl", {"loc": "When?", "loc_ans": "Now"})
    got = import_rows([rows], task="completion", unrelated=pairs, n=None, seed=0)
    assert {row.src: row.loc for row in got} == {"Who?": "Where?", "What?": "When?"}
    with pytest.raises(InputError, match="field 'loc': missing in 1 of 2 rows"):
        import_rows([rows], task="completion", unrelated=None, n=None, seed=0)


@pytest.mark.parametrize("n", [0, 3])
def test_more_rows_than_there_are_is_an_error(tmp_path, n):
    path = write_lines(tmp_path / "rows.jsonl", ZSRE, {**ZSRE, "src": "What?"})
    with pytest.raises(InputError, match=f"{n} rows asked of 2"):
        import_rows([path], task="completion", unrelated=None, n=n, seed=0)


def test_rows_of_other_splits_are_left_out(tmp_path):
    rows = [{**ZSRE, "src": f"Who is {name}?", "subject": name} for name in ("Ada", "Bob", "Cyd")]
    here = write_lines(tmp_path / "here.jsonl", *rows, {**ZSRE, "src": "Who?"})
    there = write_lines(
        tmp_path / "there.jsonl",
        {**ZSRE, "src": "WHO?"},
        {**ZSRE, "src": "Where?", "subject": "ada"},
    )
    got = import_rows([here], task="completion", unrelated=None, n=None, seed=0, exclude=[there])
    assert {row.subject for row in got} == {"Bob", "Cyd"}
    with pytest.raises(InputError, match="no rows are left"):
        import_rows([here], task="completion", unrelated=None, n=None, seed=0, exclude=[here])


def test_claims_of_one_page_alone_have_no_unrelated_claim(tmp_path):
    claims = [{"claim": f"It is {i}.", "label": "SUPPORTS", "evidence_pages": ["It"]} for i in "ab"]
    path = write_lines(tmp_path / "claims.jsonl", *claims)
    with pytest.raises(InputError, match=r"claims\.jsonl:[12]: field 'evidence_pages'"):
        import_rows([path], task="verdict", unrelated=None, n=None, seed=0)


def test_whole_fever_rows_are_imported_as_they_are(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", FEVER)
    rows = import_rows([path], task="verdict", unrelated=None, n=1, seed=0)
    assert rows == [FeverRow(**{**FEVER, "equiv_prompt": ("So it is.",)})]


# What is wrong with rows


def test_malformed_rows_are_left_out_and_counted(tmp_path, caplog):
    rows = [{**ZSRE, "src": f"Who is {i}?", "ans": "" if i % 3 == 2 else "She"} for i in range(7)]
    path = write_lines(tmp_path / "rows.jsonl", *rows[:3], 5, *rows[3:])
    options = {"task": "completion", "unrelated": None, "n": None, "seed": 0}
    with pytest.raises(InputError):
        import_rows([path], **options)
    with caplog.at_level(logging.WARNING):
        got = import_rows([path], **options, skip_malformed=True)
    assert {row.src for row in got} == {f"Who is {i}?" for i in (0, 1, 3, 4, 6)}
    assert f"left out 3 malformed rows: {path}:4: a number instead of a row" in caplog.text
    assert f"{path}:3: field 'ans': empty" in caplog.text


def test_an_empty_alternative_answer_is_malformed_where_it_is_edited_in(tmp_path):
    bare = {k: v for k, v in ZSRE.items() if k != "ans"}
    rows = [
        {**bare, "src": s, "answers": ["a"], "alt": alt} for s, alt in (("A?", "b"), ("B?", ""))
    ]
    path = write_lines(tmp_path / "rows.jsonl", *rows)
    options = {"task": "completion", "unrelated": None, "n": None, "seed": 0}
    assert len(import_rows([path], **options)) == 2
    with pytest.raises(InputError, match=r"rows\.jsonl:2: field 'alt': empty"):
        import_rows([path], **options, answer="alt")
    assert len(import_rows([path], **options, answer="alt", skip_malformed=True)) == 1


SPELLINGS = ("Where is it?", "where is  it", "Where is it", "WHERE is it ?")


def contradictory(folder):
    rows = [{**ZSRE, "src": src, "ans": f"answer {i}"} for i, src in enumerate(SPELLINGS)]
    again = {**ZSRE, "src": SPELLINGS[0], "ans": "again"}
    return write_lines(folder / "rows.jsonl", {**ZSRE, "loc": "When?"}, *rows, again)


@pytest.mark.parametrize(
    ("choice", "answers"),
    [("keep", {"She", *(f"answer {i}" for i in range(4))}), ("last", {"She", "again"})],
)
def test_contradictions_are_named_and_treated_as_asked(tmp_path, caplog, choice, answers):
    options = {"task": "completion", "unrelated": None, "n": None, "seed": 0}
    with caplog.at_level(logging.WARNING):
        got = import_rows([contradictory(tmp_path)], **options, on_contradiction=choice)
    assert {row.ans for row in got} == answers
    assert "1 questions with different answers: line 2 and line 3 and line 4" in caplog.text


def test_contradictions_can_be_refused(tmp_path):
    options = {"task": "completion", "unrelated": None, "n": None, "seed": 0}
    with pytest.raises(InputError, match="line 5 and line 6"):
        import_rows([contradictory(tmp_path)], **options, on_contradiction="error")
    same = write_lines(tmp_path / "same.jsonl", ZSRE, {**ZSRE, "src": "who", "ans": "she."})
    assert len(import_rows([same], **options, on_contradiction="error")) == 2


@given(
    locs=st.lists(st.integers(0, 7), min_size=8, max_size=8),
    n=st.none() | st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_no_unrelated_prompt_is_edited_by_another_row(tmp_path_factory, locs, n, seed):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [
        {**ZSRE, "src": f"Who is {i}?", "loc": f"who is {loc}", "loc_ans": "Other"}
        for i, loc in enumerate(locs)
    ]
    write_lines(path, *rows, {**ZSRE, "src": "Why?"})
    options = {"task": "completion", "unrelated": None, "n": n, "seed": seed}
    try:
        got = import_rows([path], **options)
    except InputError as error:
        got, message = None, str(error)
    if got is None:
        assert "are edited (ask for fewer" in message
    else:
        assert not overwritten(got)
        assert len(got) == (n or len(got))


def test_unrelated_claims_are_not_edited_to_be_false(tmp_path):
    claims = [
        {"claim": f"It is {i}.", "label": LABELS[i % 2], "evidence_pages": [str(i)]}
        for i in range(40)
    ]
    path = write_lines(tmp_path / "claims.jsonl", *claims)
    rows = import_rows([path], task="verdict", unrelated=None, n=None, seed=0)
    assert len(rows) == 40
    assert not overwritten(rows)


def test_rows_that_a_language_model_cannot_read_are_malformed(tmp_path):
    def fits(prompt, answer):
        if "x" in prompt + answer:
            raise InputError("cannot spell x")

    bare = {k: v for k, v in ZSRE.items() if not k.startswith("loc")}
    rows = [
        {**ZSRE, "ans": "x"},
        {**ZSRE, "src": "A?", "rephrase": ["b", "x"]},
        {**bare, "src": "C?"},
    ]
    path = write_lines(tmp_path / "rows.jsonl", *rows)
    others = [{"loc": loc, "loc_ans": "y"} for loc in "xz"]
    pairs = write_lines(tmp_path / "pairs.jsonl", *others)
    options = {"task": "completion", "unrelated": pairs, "n": None, "seed": 0, "fits": fits}
    with pytest.raises(InputError, match=r"rows\.jsonl:1: cannot spell x"):
        import_rows([path], **options)
    [row] = import_rows([path], **options, skip_malformed=True)
    assert (row.src, row.loc) == ("C?", "z")


# The real files


def test_real_zsre_training_rows_get_unrelated_questions(shared_data):
    path = shared_data / "zsre" / "derived_train_with_template_rephrases.jsonl.gz"
    pairs = shared_data / "nq" / "nq_train_loc_pairs.jsonl.gz"
    rows = import_rows([path], task="completion", unrelated=pairs, n=9000, seed=0)
    assert len({row.src for row in rows}) == 9000
    assert {(row.loc, row.loc_ans) for row in rows} == {
        loc_pair(record) for record in read_raw_rows(pairs)
    }
    assert rows == import_rows([path], task="completion", unrelated=pairs, n=9000, seed=0)
    assert rows != import_rows([path], task="completion", unrelated=pairs, n=9000, seed=1)


def test_real_fever_claims_become_rows(shared_data):
    path = shared_data / "fever" / "derived_supports_refutes_train.jsonl.gz"
    with gzip.open(path, "rt") as file:
        claims = {claim["claim"]: claim for claim in map(json.loads, file)}
    rows = import_rows([path], task="verdict", unrelated=None, n=2000, seed=0)
    for row in rows:
        here, there = claims[row.prompt], claims[row.unrel_prompt]
        assert not set(here["evidence_pages"]) & set(there["evidence_pages"])
        assert row.unrel_ans == there["label"]
        assert row.prompt not in row.equiv_prompt
        assert len(set(row.equiv_prompt)) == 3
        assert row.relation == "rule-made paraphrases"
    for truth in LABELS:
        edited = [row.alt for row in rows if claims[row.prompt]["label"] == truth]
        # 4 standard deviations of a fair draw
        assert abs(edited.count("SUPPORTS") / len(edited) - 0.5) < 4 * 0.5 / len(edited) ** 0.5


def test_real_claims_with_a_third_label_are_refused(shared_data):
    path = shared_data / "fever" / "fever_labelled_dev.json.gz"
    with pytest.raises(InputError, match="row 1: field 'label': unknown label 'NOT ENOUGH INFO'"):
        import_rows([path], task="verdict", unrelated=None, n=10, seed=0)
