"""The report: one file that holds everything, says what is missing, and opens anywhere."""

import html
import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import ANSWERS, evaluation, measurements

from malmen.experiment.provenance import ATTRIBUTIONS, run_metadata
from malmen.figures import FIGURES
from malmen.figures.diagrams.procedure_diagrams import mend_procedure
from malmen.figures.drawing import read_caption, save
from malmen.reporting.claims import DOES_NOT_HOLD, HOLDS, NOT_TESTABLE
from malmen.reporting.report import write_report
from malmen.results import per_fact
from malmen.support.errors import InputError
from malmen.support.files import write_json
from malmen.tables import make_table

Sources = dict[str, Any]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
VOID = {"meta", "link", "img", "br"}


def claim(status: str, lm: str, text: str, value: float | None, **row: Any) -> dict[str, Any]:
    """Return a row of `claims.csv`."""
    about = {"id": "c", "lm": lm, "status": status, "text": text, "source": "the paper"}
    interval = {"value": value, "low": value and value - 1, "high": value and value + 1}
    rest = {"at_least": False, "needed": "> 0 points", "where": "at 64 edits", "data": ""}
    return {**about, **interval, **rest, **row}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The files of an invented run that made everything but some tables and figures."""
    scale = tmp_path_factory.mktemp("run") / "results" / "desk"
    metadata = run_metadata(
        seed=7, settings={}, started=time.perf_counter(), data=ATTRIBUTIONS.values()
    )
    evaluations = []
    for editor in ("MEND", "MALMEN"):
        path = scale / "evaluations" / "smollm2" / f"{editor.lower()}.parquet"
        per_fact.write(path, evaluation(editor, counts=(16, 32), sets=1), metadata)
        evaluations.append(path)
    write_json(scale / "memory.json", metadata | {"dirty": True, "commit": "f" * 40})
    measurements().to_csv(scale / "memory.csv", index=False)
    figures = [
        FIGURES["S1"](evaluations, scale / "figures")[1],
        FIGURES["08"]([scale / "memory.csv"], scale / "figures")[1],
        save(mend_procedure, "01", scale / "figures")[1],
    ]
    claims = [
        claim(HOLDS, "smollm2", "MALMEN is better than MEND.", 12.34, data=str(evaluations[0])),
        claim(DOES_NOT_HOLD, "fact_checker", "MALMEN is better than MEND.", -5.0),
        claim(NOT_TESTABLE, "", "<b>Memory</b> & time.", None),
    ]
    pd.DataFrame(claims).to_csv(scale / "claims.csv", index=False)
    write_json(scale / "answers" / "smollm2.json", ANSWERS)
    model = scale / "lm" / "fact_checker"
    write_json(model / "accuracy.json", {"training": 0.9, "held_out": 0.625})
    job = {"s": 61.5, "cpu_time": 60.0, "max_rss": 812.4}
    for name, values in (("train/smollm2_malmen_16", job), ("facts", {**job, "cpu_time": None})):
        path = scale / "benchmarks" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values) + "\n")
    return dict(
        scale="desk",
        tables=make_table("1", scale / "tables", evaluations=evaluations)[:1],
        figures=figures,
        claims=scale / "claims.csv",
        answers=[scale / "answers" / "smollm2.json"],
        models=[model],
        runs=[*evaluations, scale / "memory.json"],
        benchmarks=scale / "benchmarks",
    )


@pytest.fixture(scope="module")
def page(sources: Sources) -> Path:
    path = sources["benchmarks"].parent / "report.html"
    write_report(path, **sources)
    return path


class Reader(HTMLParser):
    """Reads a page as a browser does, and checks that its elements nest."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page.read_text("utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open):
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def values(self, *names: str) -> list[str]:
        everything = (item for _, values in self.attributes for item in values.items())
        return [value or "" for name, value in everything if name in names]


def test_the_page_is_well_formed(page: Path) -> None:
    reader = Reader(page)
    assert len(set(reader.ids)) == len(reader.ids)
    links = [link.removeprefix("#") for link in reader.values("href") if link.startswith("#")]
    assert set(links) <= set(reader.ids)
    assert {"headline", "claims", "tables", "figures", "provenance"} <= set(links)
    assert len(list(filter(str.strip, reader.values("alt")))) == len(reader.values("src")) == 3


def test_the_page_needs_nothing_else(page: Path) -> None:
    reader = Reader(page)
    assert all(link.startswith(("#", "data:")) for link in reader.values("href", "src"))
    assert "script" not in {tag for tag, _ in reader.attributes}
    assert not re.search(r"@import|url\(", page.read_text("utf-8"))


def test_everything_is_on_it(page: Path, sources: Sources) -> None:
    text = Reader(page).text
    for figure in sources["figures"]:
        caption = read_caption(figure)
        assert caption.headline in text
        assert " ".join(caption.text.split()) in text
    for part in (
        "Figure 1: MEND's meta-gradient procedure",
        "1 holds 1 does not hold 1 not testable at this scale",
        "12.3 [11.3, 13.3]",
        "−5 [−6, −4]",
        "<b>Memory</b> & time.",
        "evaluations/smollm2/mend.parquet",
        "[bold]a | b :smile: [0m[/x]",
        "MiniLM fact checker held out 62.5",
        f"{'f' * 40} with uncommitted changes",
        "The 2 jobs: 1.0 minutes of CPU time, at most 812 MB of memory in one job",
        *ATTRIBUTIONS.values(),
    ):
        assert part in text, part


def test_what_the_run_used_is_credited_and_nothing_else(page: Path) -> None:
    [credited] = re.findall(r"<h2>Attribution</h2>.*?</ul>", page.read_text("utf-8"), re.DOTALL)
    listed = re.findall(r"<li>(.*)</li>", credited)
    assert listed == [html.escape(source) for source in ATTRIBUTIONS.values()]


def test_what_a_run_did_not_make_is_said(page: Path) -> None:
    text = Reader(page).text
    assert "Not made in this run: Table 2, 3, 4, 5." in text
    missing = ", ".join(f"Figure {number}" for number in (2, 3, 4, 5, 6, 7, 9, 10, 11))
    assert f"Not made in this run: {missing}." in text


def test_every_part_may_be_missing(tmp_path: Path, sources: Sources) -> None:
    write_report(tmp_path / "empty.html", scale="smoke")
    text = Reader(tmp_path / "empty.html").text
    for part in (
        "Results at smoke scale",
        "The claims were not evaluated in this run.",
        "Not made in this run: Table 1, 2, 3, 4, 5.",
        "No answers were recorded in this run.",
        "No language model was made in this run.",
        "No run metadata were given.",
        "Time and memory of the jobs were not recorded.",
        "No data or weights were recorded as used.",
    ):
        assert part in text, part
    for name in sources.keys() - {"scale"}:
        without = {key: value for key, value in sources.items() if key != name}
        write_report(tmp_path / "part.html", **without)
        Reader(tmp_path / "part.html")


def test_equal_sources_give_equal_bytes(tmp_path: Path, page: Path, sources: Sources) -> None:
    turned = sources | {name: sources[name][::-1] for name in ("figures", "runs", "tables")}
    again = page.with_name("again.html")
    write_report(again, **turned)
    assert again.read_bytes() == page.read_bytes()


@pytest.mark.parametrize("field", ["tables", "figures", "answers", "models", "runs"])
def test_absent_files_are_named(tmp_path: Path, field: str) -> None:
    absent = tmp_path / ("fact_checker" if field == "models" else "smollm2.json")
    with pytest.raises((InputError, FileNotFoundError), match=absent.name):
        write_report(tmp_path / "report.html", scale="desk", **{field: [absent]})
    assert not (tmp_path / "report.html").exists()


def test_unknown_verdicts_are_named(tmp_path: Path) -> None:
    pd.DataFrame([claim("perhaps", "", "MALMEN is better.", 1.0)]).to_csv(tmp_path / "claims.csv")
    with pytest.raises(InputError, match=r"claims\.csv: .* unknown verdict 'perhaps'"):
        write_report(tmp_path / "out.html", scale="desk", claims=tmp_path / "claims.csv")


def test_files_that_are_no_run_metadata_are_named(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(InputError, match=r"x\.json: not the metadata of a run"):
        write_report(tmp_path / "report.html", scale="desk", runs=[tmp_path / "x.json"])


PROBE = """
<script>
addEventListener("load", () => {
  const images = [...document.images];
  document.body.dataset.images = images.length;
  document.body.dataset.loaded = images.filter(i => i.complete && i.naturalWidth > 0).length;
  document.body.dataset.wide = document.documentElement.scrollWidth;
});
</script>
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_it_without_complaint(page: Path, tmp_path: Path, width: int) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser ({', '.join(BROWSERS)})")
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text("utf-8").replace("</body>", f"{PROBE}</body>"), "utf-8")
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={tmp_path}", f"--window-size={width},800"),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            *("--enable-logging=stderr", "--dump-dom", probed.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints
    [body] = re.findall(r"<body[^>]*>", done.stdout)
    found = {key: int(value) for key, value in re.findall(r'data-(\w+)="(\d+)"', body)}
    assert found["images"] == found["loaded"] == 3
    assert found["wide"] <= width  # nothing but tables has to be scrolled sideways
