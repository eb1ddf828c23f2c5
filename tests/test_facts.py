"""Rows survive writing and reading; whatever is wrong with a file is said with its place."""

import dataclasses
import gzip
import json
import logging

import pytest
from fact_strategies import fever_files, fever_rows, zsre_files, zsre_rows
from hypothesis import given
from hypothesis import strategies as st

from malmen.errors import InputError
from malmen.facts import (
    LABELS,
    FeverRow,
    ZsreRow,
    attach_unrelated,
    import_rows,
    read_pairs,
    read_rows,
    write_rows,
)

ZSRE = {"src": "Who?", "rephrase": ["Which one?"], "ans": "She", "loc": "Where?", "loc_ans": "Here"}
FEVER = {
    "prompt": "It is.",
    "equiv_prompt": ["So it is."],
    "unrel_prompt": "It was.",
    "alt": "REFUTES",
    "unrel_ans": "SUPPORTS",
}
SHAPES = {"zsre": ZSRE, "fever": FEVER}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


def write(path, content):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(content)
    return path


def write_lines(path, *rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


# Round trips


@given(rows=zsre_files)
def test_zsre_rows_are_read_as_written(folder, rows):
    write_rows(folder / "zsre.jsonl", rows)
    assert read_rows(folder / "zsre.jsonl", "zsre") == rows


@given(rows=fever_files)
def test_fever_rows_are_read_as_written(folder, rows):
    write_rows(folder / "fever.jsonl", rows)
    assert read_rows(folder / "fever.jsonl", "fever") == rows


@given(rows=zsre_files, name=st.sampled_from(["a.json", "a.json.gz", "a.jsonl", "a.jsonl.gz"]))
def test_every_kind_of_file_gives_the_same_rows(folder, rows, name):
    fields = [dataclasses.asdict(row) for row in rows]
    lines = "".join(json.dumps(row) + "\n" for row in fields)
    path = write(folder / name, lines if "jsonl" in name else json.dumps(fields))
    assert read_rows(path, "zsre") == rows


@given(rows=fever_files)
def test_columns_give_the_same_rows(folder, rows):
    fields = [dataclasses.asdict(row) for row in rows]
    columns = {name: [row[name] for row in fields] for name in fields[0]}
    path = write(folder / "columns.json", json.dumps(columns))
    assert read_rows(path, "fever") == rows


def test_writing_leaves_no_half_file(tmp_path):
    def broken():
        yield ZsreRow(subject=None, src="?", rephrase=("?",), ans="!", loc="?", loc_ans="!")
        raise RuntimeError("in the middle")

    path = tmp_path / "rows.jsonl"
    path.write_text("what was there\n")
    with pytest.raises(RuntimeError):
        write_rows(path, broken())
    assert path.read_text() == "what was there\n"
    assert list(tmp_path.iterdir()) == [path]


# Malformed input

WRONG = {
    "text": [None, "", "  ", 3, True, {}, []],
    "texts": [None, "", [], [""], ["fine", " "], ["fine", 3], 3, {}],
    "label": [None, "", "NOT ENOUGH INFO", "supports", 1],
}
KINDS = {
    **dict.fromkeys(ZSRE, "text"),
    **dict.fromkeys(FEVER, "text"),
    **{"rephrase": "texts", "equiv_prompt": "texts", "alt": "label", "unrel_ans": "label"},
}


@given(data=st.data(), shape=st.sampled_from(list(SHAPES)), kind=st.sampled_from(["jsonl", "json"]))
def test_a_malformed_field_is_named_with_its_place(folder, data, shape, kind):
    rows = zsre_rows if shape == "zsre" else fever_rows
    fields = [dataclasses.asdict(row) for row in data.draw(st.lists(rows, min_size=1, max_size=4))]
    line = data.draw(st.integers(1, len(fields)))
    field = data.draw(st.sampled_from(list(SHAPES[shape])))
    if data.draw(st.booleans(), "missing"):
        del fields[line - 1][field]
    else:
        fields[line - 1][field] = data.draw(st.sampled_from(WRONG[KINDS[field]]))
    if kind == "jsonl":
        path = write_lines(folder / "wrong.jsonl", *fields)
        place = f"{path}:{line}"
    else:
        path = write(folder / "wrong.json", json.dumps(fields))
        place = f"{path}:row {line}"
    with pytest.raises(InputError) as error:
        read_rows(path, shape)
    message = str(error.value)
    assert message.startswith(f"{place}: field '{field}': ")
    assert message.endswith(")")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", '{"src": 1\n', "rows.jsonl:1: not JSON"),
        ("rows.json", "[\n{,}]", "rows.json:2: not JSON"),
        ("rows.jsonl", "[]\n", "rows.jsonl:1: a list instead of a row"),
        ("rows.json", "3", "rows.json: a number instead of a list of rows"),
        ("rows.json", '{"src": "a"}', "rows.json: field 'src': a text instead of a column"),
        ("rows.json", '{"src": ["a"], "ans": []}', "rows.json: columns of different lengths"),
        ("rows.jsonl", "", "rows.jsonl: no rows"),
        ("rows.csv", "", "rows.csv: unknown kind of file"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, name, content, message):
    with pytest.raises(InputError) as error:
        read_rows(write(tmp_path / name, content), "zsre")
    assert str(error.value).startswith(str(tmp_path / message))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    with pytest.raises(InputError, match="no such file"):
        read_rows(path, "zsre")
    path.write_bytes(gzip.compress(b'{"src": "a"}\n')[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(path, "zsre")
    path.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(path, "zsre")


def test_an_unknown_shape_is_answered_with_the_choices(tmp_path):
    with pytest.raises(InputError, match="use one of zsre, fever"):
        read_rows(tmp_path / "rows.jsonl", "counterfact")


# What the released files hold


def test_the_answer_field_of_mend_is_chosen(tmp_path):
    row = {**ZSRE, "answers": ["true", "also true"], "alt": "false"}
    del row["ans"]
    path = write_lines(tmp_path / "mend.jsonl", row)
    assert read_rows(path, "zsre")[0].ans == "true"
    assert read_rows(path, "zsre", answer="alt")[0].ans == "false"
    only_alt = write_lines(tmp_path / "alt.jsonl", {k: row[k] for k in row if k != "answers"})
    assert read_rows(only_alt, "zsre")[0].ans == "false"


@pytest.mark.parametrize(
    ("loc", "read"),
    [
        ("nq question: who sang it", "nq question: who sang it?"),
        ("nq question: who sang it?", "nq question: who sang it?"),
        ("The capital of France is", "The capital of France is"),
    ],
)
def test_natural_questions_get_their_question_mark(tmp_path, loc, read):
    path = write_lines(tmp_path / "rows.jsonl", {**ZSRE, "loc": loc})
    assert read_rows(path, "zsre")[0].loc == read


def test_one_paraphrase_may_stand_without_a_list(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", {**ZSRE, "rephrase": "Which one?"})
    assert read_rows(path, "zsre")[0].rephrase == ("Which one?",)


def test_repeats_are_dropped_and_counted(tmp_path, caplog):
    path = write_lines(
        tmp_path / "rows.jsonl", ZSRE, {**ZSRE, "ans": "He"}, {**ZSRE, "src": "What?"}
    )
    with caplog.at_level(logging.WARNING):
        rows = read_rows(path, "zsre")
    assert [(row.src, row.ans) for row in rows] == [("Who?", "She"), ("What?", "She")]
    assert "dropped 1 repeated rows" in caplog.text


def test_raw_claims_are_sent_to_import_rows(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", {"claim": "It is.", "label": "SUPPORTS"})
    with pytest.raises(InputError, match=r"field 'prompt'.*import-rows"):
        read_rows(path, "fever")


# Completing rows


@given(rows=zsre_files, n_pairs=st.integers(1, 8))
def test_unrelated_pairs_are_attached_in_turn(rows, n_pairs):
    pairs = [(f"question {i}?", f"answer {i}") for i in range(n_pairs)]
    attached = attach_unrelated(rows, pairs)
    assert [(row.loc, row.loc_ans) for row in attached] == [
        pairs[i % n_pairs] for i in range(len(rows))
    ]
    assert [row.src for row in attached] == [row.src for row in rows]


def test_no_pairs_to_attach_is_an_error():
    row = ZsreRow(subject=None, src="?", rephrase=("?",), ans="!", loc="", loc_ans="")
    with pytest.raises(InputError, match="no unrelated pairs"):
        attach_unrelated([row], [])
    assert attach_unrelated([], []) == []


def test_rows_with_their_own_unrelated_question_keep_it(tmp_path):
    bare = {k: v for k, v in ZSRE.items() if not k.startswith("loc")}
    rows = write_lines(tmp_path / "rows.jsonl", ZSRE, {**bare, "src": "What?"})
    pairs = write_lines(tmp_path / "pairs.jsonl", {"loc": "When?", "loc_ans": "Now"})
    got = import_rows([rows], shape="zsre", unrelated=pairs, n=None, seed=0)
    assert {row.src: row.loc for row in got} == {"Who?": "Where?", "What?": "When?"}
    with pytest.raises(InputError, match="field 'loc': missing in 1 of 2 rows"):
        import_rows([rows], shape="zsre", unrelated=None, n=None, seed=0)


@pytest.mark.parametrize("n", [0, 3])
def test_more_rows_than_there_are_is_an_error(tmp_path, n):
    path = write_lines(tmp_path / "rows.jsonl", ZSRE, {**ZSRE, "src": "What?"})
    with pytest.raises(InputError, match=f"{n} rows asked of 2"):
        import_rows([path], shape="zsre", unrelated=None, n=n, seed=0)


def test_rows_of_other_splits_are_left_out(tmp_path):
    rows = [{**ZSRE, "src": f"Who is {name}?", "subject": name} for name in ("Ada", "Bob", "Cyd")]
    here = write_lines(tmp_path / "here.jsonl", *rows, {**ZSRE, "src": "Who?"})
    there = write_lines(
        tmp_path / "there.jsonl",
        {**ZSRE, "src": "WHO?"},
        {**ZSRE, "src": "Where?", "subject": "ada"},
    )
    got = import_rows([here], shape="zsre", unrelated=None, n=None, seed=0, exclude=[there])
    assert {row.subject for row in got} == {"Bob", "Cyd"}
    with pytest.raises(InputError, match="no rows are left"):
        import_rows([here], shape="zsre", unrelated=None, n=None, seed=0, exclude=[here])


def test_claims_of_one_page_alone_have_no_unrelated_claim(tmp_path):
    claims = [{"claim": f"It is {i}.", "label": "SUPPORTS", "evidence_pages": ["It"]} for i in "ab"]
    path = write_lines(tmp_path / "claims.jsonl", *claims)
    with pytest.raises(InputError, match=r"claims\.jsonl:[12]: field 'evidence_pages'"):
        import_rows([path], shape="fever", unrelated=None, n=None, seed=0)


def test_whole_fever_rows_are_imported_as_they_are(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", FEVER)
    rows = import_rows([path], shape="fever", unrelated=None, n=1, seed=0)
    assert rows == [FeverRow(**{**FEVER, "equiv_prompt": ("So it is.",)})]


# The real files


def test_real_zsre_evaluation_rows_are_read(shared_data):
    path = shared_data / "zsre" / "zsre_mend_eval_portability_gpt4.json.gz"
    true, false = (read_rows(path, "zsre", answer=a) for a in ("answers", "alt"))
    assert len(true) == len(false) == 1037
    assert (true[0].ans, false[0].ans) == ("1998", "2006")
    assert all(row.loc.endswith("?") and row.subject for row in true)


def test_real_zsre_training_rows_get_unrelated_questions(shared_data):
    path = shared_data / "zsre" / "derived_train_with_template_rephrases.jsonl.gz"
    pairs = shared_data / "nq" / "nq_train_loc_pairs.jsonl.gz"
    rows = import_rows([path], shape="zsre", unrelated=pairs, n=9000, seed=0)
    assert len({row.src for row in rows}) == 9000
    assert {(row.loc, row.loc_ans) for row in rows} == set(read_pairs(pairs))
    assert rows == import_rows([path], shape="zsre", unrelated=pairs, n=9000, seed=0)
    assert rows != import_rows([path], shape="zsre", unrelated=pairs, n=9000, seed=1)


def test_real_fever_claims_become_rows(shared_data):
    path = shared_data / "fever" / "derived_supports_refutes_train.jsonl.gz"
    with gzip.open(path, "rt") as file:
        claims = {claim["claim"]: claim for claim in map(json.loads, file)}
    rows = import_rows([path], shape="fever", unrelated=None, n=2000, seed=0)
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
        import_rows([path], shape="fever", unrelated=None, n=10, seed=0)
