"""Rows made from KILT: of the right shape, with paraphrases that say how they were made."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from row_files import write_lines

from malmen.data.downloads.kilt import QUESTION_RULES, rebuild
from malmen.data.importing import RELATION_OF_RULES
from malmen.data.rows import read_rows
from malmen.support.errors import InputError


def relation(subject: str, *questions: str, answers: tuple[str, ...] = ("Acme",)) -> dict:
    return {
        "id": subject,
        "input": f"{subject} [SEP] employer",
        "meta": {"template_questions": list(questions)},
        "output": [{"answer": answer, "provenance": []} for answer in answers],
    }


def claim(text: str, label: str, *pages: str) -> dict:
    sources = [{"title": page} for page in pages]
    return {"input": text, "meta": {}, "output": [{"answer": label, "provenance": sources}]}


FACTS = [
    relation("Ada", "Who employs Ada?", "Where does Ada work?", answers=("Acme", "Acme Inc.")),
    relation("Bob", "Who employs Bob?"),
    relation("Cyd", "Who employs XXX?", "Where does XXX work?"),
    relation("Dee"),  # no question to ask
]
NQ = [
    {"input": "who was first", "output": [{"answer": ""}, {"answer": "Eve"}]},
    {"input": "where is it", "output": [{"answer": "here"}]},
    {"input": "why is it", "output": [{"answer": ""}]},
]
CLAIMS = [
    claim("Ada is a person.", "SUPPORTS", "Ada", "Person"),
    claim("Bob is a place.", "REFUTES", "Bob"),
    claim("Ada is young.", "SUPPORTS", "Ada"),
]
UNDECIDED = claim("Cyd is old.", "NOT ENOUGH INFO")


def write_parquet(path: Path, *rows: dict) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_questions_become_zsre_rows(tmp_path: Path, ending: str) -> None:
    write = {"jsonl": write_lines, "parquet": write_parquet}[ending]
    nq = [{**row, "meta": {"mention": ""}} for row in NQ]
    facts = write(tmp_path / f"facts.{ending}", *FACTS)
    rebuild(facts, unrelated=write(tmp_path / f"nq.{ending}", *nq), out=tmp_path / "rows.json")
    rows = {row.subject: row for row in read_rows(tmp_path / "rows.json", "completion")}
    assert rows.keys() == {"Ada", "Bob", "Cyd"}
    assert rows["Ada"].src == "Who employs Ada?"
    assert rows["Ada"].rephrase == ("Where does Ada work?",)
    assert rows["Ada"].ans == "Acme"
    assert rows["Bob"].rephrase == tuple(
        r.format(question="Who employs Bob?") for r in QUESTION_RULES
    )
    assert rows["Cyd"].src == "Who employs Cyd?"
    for row in rows.values():
        assert row.relation == f"employer; {RELATION_OF_RULES}"
        assert (row.loc, row.loc_ans) in {
            ("nq question: who was first?", "Eve"),
            ("nq question: where is it?", "here"),
        }


def test_claims_become_fever_rows(tmp_path: Path) -> None:
    facts = write_lines(tmp_path / "fever.jsonl", *CLAIMS, UNDECIDED)
    rebuild(facts, unrelated=None, out=tmp_path / "rows.json")
    rows = read_rows(tmp_path / "rows.json", "verdict")
    assert {row.prompt for row in rows} == {row["input"] for row in CLAIMS}
    about = {"Ada": "SUPPORTS", "Bob": "REFUTES"}
    for row in rows:
        assert row.unrel_prompt.split()[0] != row.prompt.split()[0]  # of another page
        assert row.unrel_ans == about[row.unrel_prompt.split()[0]]
        assert row.relation == RELATION_OF_RULES
        assert len(set(row.equiv_prompt) - {row.prompt}) == 3


def test_what_is_rebuilt_twice_is_the_same(tmp_path: Path) -> None:
    facts = write_lines(tmp_path / "fever.jsonl", *CLAIMS * 9)
    for name in ("one.json", "two.json"):
        rebuild(facts, unrelated=None, out=tmp_path / name)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_file_of_another_kind_is_refused_with_its_row(tmp_path: Path) -> None:
    out, nq = tmp_path / "rows.json", write_lines(tmp_path / "nq.jsonl", *NQ)
    with pytest.raises(InputError, match=r"nq\.jsonl:1: field 'input': no ' \[SEP\] ' in it"):
        rebuild(nq, unrelated=nq, out=out)
    blind = write_lines(tmp_path / "test.jsonl", {"input": "Ada [SEP] employer", "output": []})
    with pytest.raises(InputError, match=r"test\.jsonl: no answers in it"):
        rebuild(blind, unrelated=None, out=out)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1" + json.dumps(FACTS).encode())
    with pytest.raises(InputError, match=r"broken\.parquet: not a Parquet file"):
        rebuild(broken, unrelated=None, out=out)
    assert not out.exists()
