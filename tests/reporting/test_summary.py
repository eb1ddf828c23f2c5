import json
from pathlib import Path

import pytest
from synthetic import ANSWERS, METADATA, answer, write_evaluations

from malmen.experiment.provenance import ATTRIBUTIONS
from malmen.figures import FIGURES
from malmen.figures.drawing import read_caption
from malmen.reporting.summary import WIDTH, read_answers, summarise
from malmen.support.errors import InputError
from malmen.support.files import write_json
from malmen.tables import make_table


@pytest.fixture
def made(tmp_path: Path) -> tuple[list[Path], list[Path], Path]:
    scale = tmp_path / "results" / "desk"
    evaluations = write_evaluations(scale / "evaluations", lms=("smollm2",))
    tables = make_table("1", scale / "tables", evaluations=evaluations)
    figures = FIGURES["S1"](evaluations, scale / "figures")
    path = scale / "answers" / "smollm2.json"
    path.parent.mkdir()
    path.write_text(json.dumps(ANSWERS), encoding="utf-8")
    return tables, figures, path


def test_summary(
    made: tuple[list[Path], list[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tables, figures, answers = made
    out = answers.parents[1] / "summary.md"
    evaluations = sorted(out.parent.glob("evaluations/*/*.parquet"))
    runs = [*evaluations, out.parent / "statistics.json"]
    write_json(runs[-1], {"commit": "unknown", "data": list(ATTRIBUTIONS.values())})
    summarise(tables, figures, [answers], out, runs=runs)

    terminal = capsys.readouterr().out
    prose = [line for line in terminal.splitlines() if str(out.parent) not in line]
    assert max(map(len, prose)) <= WIDTH
    assert "…" not in terminal
    assert "SmolLM2-135M, 64 edits" in terminal
    assert "France -> Peru" in terminal
    assert "[bold]a | b" in terminal
    assert "\x1b" not in terminal
    assert "GeoNames (https://www.geonames.org), CC BY 4.0" in terminal

    markdown = out.read_text("utf-8")
    assert tables[0].read_text("utf-8").strip() in markdown
    caption = read_caption(figures[1])
    title = f"Figure S1: {caption.headline}"
    assert f"![{title}](figures/figure_S1.png)" in markdown
    assert f"**{title}.** {caption.text}" in markdown
    assert r"| unrelated | Where is Lyon? | Lima | Lima | [bold]a \| b :smile:" in markdown
    for path in (*tables, *figures):
        assert f"]({path.relative_to(out.parent)})" in markdown
        assert f"  {path}\n" in terminal
    used = [*ATTRIBUTIONS.values(), *METADATA["data"]]
    listed = "\n".join(f"- {source}" for source in sorted(used))
    assert markdown.endswith(f"## Data and models that are not ours\n\n{listed}\n")
    assert f"Data and models: {'; '.join(sorted(used))}." in " ".join(terminal.split())


def test_models_and_claims_are_shown(
    made: tuple[list[Path], list[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tables, figures, answers = made
    scale = answers.parents[1]
    shares = {"fact_checker": ("training", 0.9), "gpt2_desk": ("known", 0.951)}
    for name, (split, share) in shares.items():
        write_json(scale / "lm" / name / "accuracy.json", {split: share, "held_out": 0.625})
    claims = scale / "claims.md"
    claims.write_text("Claims at desk scale: 1 holds.\n\n| Claim |\n|---|\n| One. |\n")
    models = [scale / "lm" / name for name in shares]
    summarise(tables, figures, [answers], scale / "summary.md", models=models, claims=claims)

    notes = [
        "MiniLM fact checker, verdicts on claims right before editing: training 90.0 %; "
        "held out 62.5 %.",
        "GPT-2 (desk), tokens of answers right before editing: known 95.1 %; held out 62.5 %.",
    ]
    markdown = (scale / "summary.md").read_text("utf-8")
    assert all(note in markdown for note in notes)
    assert f"## Claims\n\n{claims.read_text('utf-8')}" in markdown
    terminal = capsys.readouterr().out
    assert all(note in terminal for note in (*notes, "Claims at desk scale: 1 holds."))
    assert "| One. |" not in terminal


def test_answers_are_grouped_by_fact(made: tuple[list[Path], list[Path], Path]) -> None:
    *_, path = made
    assert [len(fact) for fact in read_answers(path)] == [3, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a list of answers"),
        ("[1]", "entry 0: field 'fact' is not of type int"),
        (json.dumps([answer(0, "edit"), answer(0, "edit", after=None)]), "entry 1: field 'after'"),
        (json.dumps([answer(0, "guess")]), "entry 0: field 'kind' is not one of edit, paraphrase"),
    ],
)
def test_malformed_answers(
    made: tuple[list[Path], list[Path], Path], content: str, message: str
) -> None:
    tables, figures, path = made
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"smollm2\.json: {message}"):
        summarise(tables, figures, [path], path.parent / "summary.md")
    assert not (path.parent / "summary.md").exists()


def test_missing_files(made: tuple[list[Path], list[Path], Path]) -> None:
    tables, figures, path = made
    out = path.parent / "summary.md"
    with pytest.raises(InputError, match=r"table_1\.md is not among --tables"):
        summarise(tables[1:], figures, [path], out)
    with pytest.raises(InputError, match=r"absent\.png: no such file"):
        summarise(tables, [Path("absent.png")], [path], out)
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        summarise(tables, figures, [Path("absent.json")], out)
