"""The report: everything that a run made, on one self-contained page."""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from malmen.figures.drawing import figure_number, read_caption
from malmen.lm.catalogue import lookup
from malmen.reporting.claims import DOES_NOT_HOLD, HOLDS, NOT_TESTABLE, in_print
from malmen.reporting.pages import write_page
from malmen.reporting.summary import read_answers
from malmen.results.bootstrap import Interval
from malmen.results.per_fact import read_metadata, sources
from malmen.support.errors import InputError
from malmen.support.files import read_json

__all__ = ["write_report"]

TABLES = ("1", "2", "3", "4", "5")
FIGURES = tuple(f"{number:02}" for number in range(1, 12))
"""What the paper has; the report says which of them a run did not make."""

_STATUS_CLASSES = {HOLDS: "holds", DOES_NOT_HOLD: "fails", NOT_TESTABLE: "untested"}


def write_report(
    out: Path,
    *,
    scale: str,
    tables: Sequence[Path] = (),
    figures: Sequence[Path] = (),
    claims: Path | None = None,
    answers: Sequence[Path] = (),
    models: Sequence[Path] = (),
    runs: Sequence[Path] = (),
    benchmarks: Path | None = None,
) -> None:
    """Write the report as one HTML file that needs no other; equal sources give equal bytes.

    What is left out is reported as missing.

    Args:
        out: The page.
        scale: The scale that ran.
        tables: Files `table_<number>.md`.
        figures: Files `figure_<name>.png`.
        claims: `claims.csv`.
        answers: Files `<lm>.json` of `malmen answers`.
        models: Folders of LMs made here, each with `accuracy.json`.
        runs: Run metadata: JSON files, and evaluations.
        benchmarks: Folder of Snakemake's benchmarks, one JSON line a job.

    Raises:
        InputError: If a file is malformed.
        OSError: If a file is missing.
    """
    metadata = {_relative(path, out.parent): read_metadata(path) for path in sorted(runs)}
    contents, pictures = _named(tables, "table_"), _named(figures, "figure_")
    write_page(
        out,
        "report.html.j2",
        scale=scale,
        claims=_claims(claims, out.parent) if claims else None,
        tables={number: _markdown(path) for number, path in contents.items()},
        missing_tables=[number for number in TABLES if number not in contents],
        figures={name: _picture(name, path) for name, path in pictures.items()},
        missing_figures=[figure_number(name) for name in FIGURES if name not in pictures],
        answers={lookup(path.stem).title: read_answers(path) for path in sorted(answers)},
        models=[
            (lookup(path.name).title, read_json(path / "accuracy.json")) for path in sorted(models)
        ],
        provenance=_provenance(metadata.values()),
        runs=metadata,
        jobs=_jobs(benchmarks) if benchmarks else [],
        attributions=sources(metadata.values()),
    )


def _named(paths: Iterable[Path], prefix: str) -> dict[str, Path]:
    """Return files by what distinguishes their names, sorted by it."""
    return dict(sorted((path.stem.removeprefix(prefix), path) for path in paths))


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.absolute(), folder.absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _claims(path: Path, folder: Path) -> dict[str, Any]:
    """Return how many verdicts have which status, and the verdicts on each claim."""
    groups: dict[str, list[dict[str, Any]]] = {}
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    for row in rows:
        if row["status"] not in _STATUS_CLASSES:
            raise InputError(f"{path}: column 'status': unknown verdict '{row['status']}'")
        row["title"] = lookup(row["lm"]).title if row["lm"] else ""
        row["css"] = _STATUS_CLASSES[row["status"]]
        row["found"] = _found(row)
        row["files"] = [_relative(Path(file), folder) for file in row["data"].split(", ") if file]
        groups.setdefault(row["text"], []).append(row)
    number = Counter(row["css"] for row in rows)
    counts = [(status, css, number[css]) for status, css in _STATUS_CLASSES.items()]
    return {"counts": counts, "groups": groups}


def _found(row: Mapping[str, str]) -> str:
    """Return what was measured, if anything was."""
    if not row["value"]:
        return ""
    interval = Interval(*(float(row[name] or "nan") for name in Interval._fields))
    return in_print(interval, at_least=row["at_least"] == "True").replace("-", "−")


def _markdown(path: Path) -> Markup:
    """Turn Markdown into HTML; a table that is too wide can be scrolled."""
    converter = MarkdownIt("commonmark", {"html": False}).enable("table")
    page = converter.render(path.read_text(encoding="utf-8"))
    page = page.replace("<table>", '<div class="scroll"><table>')
    return Markup(page.replace("</table>", "</table></div>"))


def _picture(name: str, path: Path) -> dict[str, Any]:
    """Return a figure's caption, the PNG as a data URI, and its size in CSS pixels."""
    caption = read_caption(path)
    with Image.open(path) as image:
        width, height = image.size
    return {
        "title": f"{figure_number(name)}: {caption.headline}",
        "text": caption.text,
        "uri": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}",
        "width": width // 2,  # PNGs have twice the pixels of a screen
        "height": height // 2,
    }


def _provenance(runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, None]]:
    """Return what the runs have in common, field by field: the distinct values."""
    found: dict[str, dict[str, None]] = {}
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
    return found


def _jobs(folder: Path) -> list[dict[str, Any]]:
    """Return name, seconds, CPU seconds and peak memory (MB) of every job, longest first."""
    columns = {"seconds": "s", "cpu": "cpu_time", "memory": "max_rss"}
    # Of a job that ends at once, Snakemake may have measured nothing.
    jobs = [
        {"name": path.relative_to(folder).with_suffix("").as_posix()}
        | {key: row.get(column) or 0.0 for key, column in columns.items()}
        for path in sorted(folder.rglob("*.jsonl"))
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    ]
    return sorted(jobs, key=lambda job: (-job["cpu"], job["name"]))
