"""What an editor costs: seconds and memory, and Table 5."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from malmen.experiment.cards import cards, marked, of_title, printed_name, titles
from malmen.results.per_fact import editor_order, read, scale_of
from malmen.support.errors import InputError
from malmen.support.files import read_json
from malmen.tables.score_tables import (
    figure_order,
    largest_shared_count,
    later_notes,
    outside_numbers,
    title_of,
)
from malmen.tables.typesetting import EMPTY, Grid, Table

__all__ = ["costs", "stages_of", "table_5"]

_SECONDS = {
    "training_seconds": "Training, s",
    "statistics_seconds": "Statistics, s",
    "editing_seconds": "Editing, s",
    "total_seconds": "Total, s",
}


def stages_of(editor: str) -> list[str]:
    """Return the columns of seconds that an editor has by its card, editing among them."""
    card = of_title(editor)
    before = {
        "training_seconds": card is not None and card.training is not None,
        "statistics_seconds": card is not None and card.statistics,
    }
    return [*(stage for stage, is_needed in before.items() if is_needed), "editing_seconds"]


def table_5(
    *, evaluations: Sequence[Path], trained: Sequence[Path] = (), statistics: Sequence[Path] = ()
) -> Table:
    """Return Table 5: time and peak memory of every editor at its LM's largest number of edits.

    Args:
        evaluations: Per-fact results of every editor.
        trained: Run metadata of the trained editors; their logs stand beside them.
        statistics: Run metadata of key statistics.

    Raises:
        InputError: As `costs`.
    """
    data = costs(evaluations, trained=trained, statistics=statistics)
    scale = scale_of(evaluations)
    return Table(
        number="5",
        caption=(f"Results at {scale} scale. " if scale else "") + " ".join(_ABOUT),
        grids=[_grid(data)],
        data=data,
        notes=[*later_notes(data["editor"]), *map(_time_elsewhere, outside_numbers()["times"])],
    )


_ABOUT = (
    "Seconds and peak memory of the editors at the largest number of edits that all of an LM's "
    "editors were evaluated at; the layout is inferred.",
    "Training is meta-training up the whole list of counts, statistics are MEMIT's covariances of "
    "keys, editing is the time from facts to shifts, a mean over edit sets.",
    "Empty: the editor has no such stage.",
    "Memory is the largest resident set of any of these processes, which hold the LM too.",
)


def costs(
    evaluations: Sequence[Path], *, trained: Sequence[Path] = (), statistics: Sequence[Path] = ()
) -> pd.DataFrame:
    """Return what each editor took on each LM.

    Args:
        evaluations: Per-fact results of every editor.
        trained: Run metadata of the trained editors, `<editor>_<edits>.json`, each with the log of
            its training beside it. Seconds are summed over the steps of the log, so that a
            training that was interrupted counts whole.
        statistics: Run metadata of key statistics, `<lm>.json`.

    Returns:
        One row an LM and editor: lm, editor, edits, the columns of seconds (NaN where an editor
        has no such stage), peak_memory_mb.

    Raises:
        InputError: A file is missing or not what it should be; the editors of an LM share no
            number of edits.
    """
    runs = [_editing(path) for path in evaluations]
    training = _sums((_training(path) for path in trained), "training_seconds")
    gathered = (stage for path in statistics for stage in _statistics(path))
    gathering = _sums(gathered, "statistics_seconds")
    rows = []
    for lm in sorted({run["lm"] for run in runs}, key=figure_order):
        of_lm = {run["editor"]: run for run in runs if run["lm"] == lm}
        edits = largest_shared_count(
            {name: set(run["means"]) for name, run in of_lm.items()}, lm=lm
        )
        for editor in editor_order(of_lm, titles()):
            stages = [stage.get((lm, editor), {}) for stage in (training, gathering)]
            rows.append(_row(of_lm[editor], edits, stages))
    return pd.DataFrame(rows)


def _row(
    run: Mapping[str, Any], edits: int, stages: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    seconds = dict.fromkeys(_SECONDS, float("nan")) | {"editing_seconds": run["means"][edits]}
    for stage in stages:
        seconds |= {name: stage[name] for name in stage if name in _SECONDS}
    seconds["total_seconds"] = sum(value for value in seconds.values() if value == value)  # no NaN
    memory = max(stage["peak_memory_mb"] for stage in (run, *filter(None, stages)))
    about = {"lm": run["lm"], "editor": run["editor"], "edits": edits}
    return about | seconds | {"peak_memory_mb": memory}


def _editing(path: Path) -> dict[str, Any]:
    """Return the LM and editor of an evaluation, and the mean seconds of an edit by count."""
    rows, metadata = read(path)
    if not metadata.get("editing"):
        raise InputError(f"{path}: the time of editing is not recorded (run `malmen evaluate`)")
    means = pd.DataFrame(metadata["editing"]).groupby("edits")["seconds"].mean().to_dict()
    about = {name: rows[name].iloc[0] for name in ("lm", "editor")}
    return about | {"means": means, "peak_memory_mb": metadata["peak_memory_mb"]}


def _training(path: Path) -> dict[str, Any]:
    metadata = _metadata(path)
    log = Path(path).with_suffix(".csv")
    if not log.is_file():
        raise InputError(f"{log}: no such file (`malmen train` writes it beside {path})")
    settings = metadata["settings"]
    editor = printed_name(settings["editor"])
    seconds = float(pd.read_csv(log)["seconds"].sum())
    return _stage(settings["lm"], editor, "training_seconds", seconds, metadata)


def _statistics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the stage for every editor that needs statistics: alone, each would take as long."""
    metadata = _metadata(path)
    lm = metadata["settings"].get("lm", Path(path).stem)
    for editor in (card.title for card in cards() if card.statistics):
        yield _stage(lm, editor, "statistics_seconds", metadata["wall_seconds"], metadata)


def _stage(
    lm: str, editor: str, name: str, seconds: float, metadata: dict[str, Any]
) -> dict[str, Any]:
    memory = metadata["peak_memory_mb"]
    return {"lm": lm, "editor": editor, name: seconds, "peak_memory_mb": memory}


def _metadata(path: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = read_json(path)
    for field in ("settings", "wall_seconds", "peak_memory_mb"):
        if field not in metadata:
            raise InputError(f"{path}: field '{field}' is missing (not the metadata of a run)")
    return metadata


def _sums(
    stages: Iterable[dict[str, Any]], seconds: str
) -> dict[tuple[str, str], dict[str, float]]:
    """Return the seconds in all and the largest memory, by LM and editor."""
    sums: dict[tuple[str, str], dict[str, float]] = {}
    for stage in stages:
        so_far = sums.setdefault((stage["lm"], stage["editor"]), {seconds: 0, "peak_memory_mb": 0})
        so_far[seconds] += stage[seconds]
        so_far["peak_memory_mb"] = max(so_far["peak_memory_mb"], stage["peak_memory_mb"])
    return sums


def _grid(data: pd.DataFrame) -> Grid:
    columns = ["LM", "Edits", "Editor", *_SECONDS.values(), "Peak memory, MB"]
    rows = [
        [
            title_of(line["lm"]),
            f"{line['edits']:,}",
            marked(line["editor"]),
            *(EMPTY if pd.isna(line[name]) else f"{line[name]:,.1f}" for name in _SECONDS),
            f"{line['peak_memory_mb']:,.0f}",
        ]
        for line in data.to_dict("records")
    ]
    return Grid(columns=columns, rows=rows, block="{LM}, {Edits} edits")


def _time_elsewhere(entry: dict[str, Any]) -> str:
    hours = " and ".join(f"{hours} h with {editor}" for editor, hours in entry["hours"].items())
    return (
        f"Elsewhere: {entry['edits']:,} edits of {entry['lm']} took {hours}, training included, "
        f"on {entry['hardware']} ({entry['source']}; not measured here)."
    )
