"""The report: everything that a run made, on one self-contained page."""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from malmen.figures.drawing import figure_number, read_caption
from malmen.lm.catalogue import lookup
from malmen.reporting.claims import DOES_NOT_HOLD, HOLDS, NOT_TESTABLE
from malmen.reporting.summary import plain, read_answers
from malmen.results import per_fact
from malmen.support.errors import InputError
from malmen.support.files import atomic, read_json

__all__ = ["Sources", "write_report"]

TABLES = ("1", "2", "3", "4", "5")
FIGURES = tuple(f"{number:02}" for number in range(1, 12))
"""What the paper has; the report says which of them a run did not make."""

_STATUS_CLASSES = {HOLDS: "holds", DOES_NOT_HOLD: "fails", NOT_TESTABLE: "untested"}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files that a report is made of; what is left out is reported as missing.

    Attributes:
        scale: The scale that ran.
        tables: Files `table_<number>.md`.
        figures: Files `figure_<name>.png`.
        claims: `claims.csv`.
        answers: Files `<lm>.json` of `malmen answers`.
        models: Folders of LMs made here, each with `accuracy.json`.
        runs: Run metadata: JSON files, and evaluations.
        benchmarks: Folder of Snakemake's benchmarks, one JSON line a job.
    """

    scale: str
    tables: Sequence[Path] = ()
    figures: Sequence[Path] = ()
    claims: Path | None = None
    answers: Sequence[Path] = ()
    models: Sequence[Path] = ()
    runs: Sequence[Path] = ()
    benchmarks: Path | None = None


@dataclass(frozen=True)
class Part:
    """A table or a figure on the page."""

    name: str
    title: str
    content: Markup


@dataclass(frozen=True)
class Picture:
    """A figure: its caption, the PNG as a data URI, and its size in CSS pixels."""

    name: str
    title: str
    headline: str
    text: str
    uri: str
    width: int
    height: int


def write_report(sources: Sources, out: Path) -> None:
    """Write the report as one HTML file that needs no other; equal sources give equal bytes.

    Raises:
        InputError: If a file is malformed.
        OSError: If a file is missing.
    """
    runs = {
        _relative(path, out.parent): per_fact.read_metadata(path) for path in sorted(sources.runs)
    }
    tables, figures = _tables(sources.tables), _pictures(sources.figures)
    page = _template().render(
        scale=sources.scale,
        claims=_claims(sources.claims, out.parent) if sources.claims else None,
        tables=tables,
        missing_tables=[name for name in TABLES if name not in {one.name for one in tables}],
        figures=figures,
        missing_figures=[
            figure_number(name) for name in FIGURES if name not in {one.name for one in figures}
        ],
        answers={lookup(path.stem).title: read_answers(path) for path in sorted(sources.answers)},
        models=_models(sources.models),
        provenance=_provenance(runs.values()),
        runs=runs,
        jobs=_jobs(sources.benchmarks) if sources.benchmarks else [],
        attributions=per_fact.sources(runs.values()),
    )
    with atomic(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("malmen.reporting"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": lambda share: f"{100 * share:.1f}", "plain": plain}
    return environment.get_template("report.html.j2")


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.absolute(), folder.absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


# --- claims, tables, figures ---------------------------------------------------------------------


def _claims(path: Path, folder: Path) -> dict[str, Any]:
    """Return how many verdicts have which status, and the verdicts on each claim."""
    groups: dict[str, list[dict[str, Any]]] = {}
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    for row in rows:
        row["title"] = lookup(row["lm"]).title if row["lm"] else ""
        if row["status"] not in _STATUS_CLASSES:
            raise InputError(f"{path}: column 'status': unknown verdict '{row['status']}'")
        row["css"] = _STATUS_CLASSES[row["status"]]
        row["found"] = _found(row)
        row["files"] = [_relative(Path(file), folder) for file in row["data"].split(", ") if file]
        groups.setdefault(row["text"], []).append(row)
    number = Counter(row["css"] for row in rows)
    return {
        "counts": [(status, css, number[css]) for status, css in _STATUS_CLASSES.items()],
        "groups": groups,
    }


def _found(row: Mapping[str, Any]) -> str:
    """Return what was measured, with its interval if it has one."""
    value, low, high = (
        f"{float(row[name]):.3g}".replace("-", "−") if row[name] != "" else ""
        for name in ("value", "low", "high")
    )
    sign = "≥ " if row["at_least"] == "True" else ""
    return f"{sign}{value}" + (f" [{low}, {high}]" if low else "")


def _tables(paths: Iterable[Path]) -> list[Part]:
    numbers = {path.stem.removeprefix("table_"): path for path in paths}
    return [
        Part(number, f"Table {number}", _markdown(path)) for number, path in sorted(numbers.items())
    ]


def _markdown(path: Path) -> Markup:
    """Turn Markdown into HTML; a table that is too wide can be scrolled."""
    converter = MarkdownIt("commonmark", {"html": False}).enable("table")
    page = converter.render(path.read_text(encoding="utf-8")).replace(
        "<table>", '<div class="scroll"><table>'
    )
    return Markup(page.replace("</table>", "</table></div>"))


def _pictures(paths: Iterable[Path]) -> list[Picture]:
    names = {path.stem.removeprefix("figure_"): path for path in paths}
    return [_picture(name, path) for name, path in sorted(names.items())]


def _picture(name: str, path: Path) -> Picture:
    caption = read_caption(path)
    with Image.open(path) as image:
        width, height = image.size
    content = base64.b64encode(path.read_bytes()).decode()
    return Picture(
        name,
        figure_number(name),
        caption.headline,
        caption.text,
        f"data:image/png;base64,{content}",
        width // 2,  # PNGs have twice the pixels of a screen
        height // 2,
    )


# --- language models, provenance, jobs -----------------------------------------------------------


def _models(folders: Iterable[Path]) -> list[tuple[str, dict[str, float]]]:
    return [
        (lookup(folder.name).title, read_json(folder / "accuracy.json"))
        for folder in sorted(folders)
    ]


def _provenance(runs: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return what the runs have in common, field by field: the distinct values."""
    found: dict[str, dict[str, None]] = {
        field: {} for field in ("Commit", "Seed", "Processor", "Cores", "Memory", "GPU")
    }
    for run in runs:
        hardware = run["hardware"]
        changed = " with uncommitted changes" if run["dirty"] else ""
        values = {
            "Commit": f"{run['commit']}{changed}",
            "Seed": str(run["seed"]),
            "Processor": hardware["cpu"],
            "Cores": str(hardware["cores"]),
            "Memory": f"{hardware['memory_gb']} GB",
            "GPU": hardware["gpu"] or "none",
            **run["versions"],
        }
        for field, value in values.items():
            found.setdefault(field, {})[value] = None
    return [(field, list(values)) for field, values in found.items() if values]


def _jobs(folder: Path) -> list[dict[str, Any]]:
    """Return name, seconds, CPU seconds and peak memory (MB) of every job, longest first."""
    jobs = []
    for path in sorted(folder.rglob("*.jsonl")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            columns = {"seconds": "s", "cpu": "cpu_time", "memory": "max_rss"}
            # Of a job that ends at once, Snakemake may have measured nothing.
            jobs.append(
                {"name": name} | {key: row.get(column) or 0.0 for key, column in columns.items()}
            )
    return sorted(jobs, key=lambda job: (-job["cpu"], job["name"]))
