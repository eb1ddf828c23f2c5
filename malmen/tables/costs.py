"""What an editor costs: seconds and memory, and Table 5."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from malmen.experiment.cards import cards, marked, notes, of_title, printed_name, titles
from malmen.results.comparison import editor_order
from malmen.results.per_fact import read
from malmen.support.errors import InputError
from malmen.support.files import read_json
from malmen.tables.conventions import (
    BLOCK,
    COUNTED,
    caption,
    figure_order,
    largest_shared_count,
    outside_numbers,
)
from malmen.tables.typesetting import Grid, Printed, Table, column

__all__ = ["costs", "stages_of", "table_5"]

_STAGES = ("training", "statistics", "editing")


class _Stage(NamedTuple):
    """What one run took: seconds, and its peak memory in MB; `edits` where that is one of many."""

    lm: str
    editor: str
    name: str
    seconds: float
    memory: float
    edits: int | None = None


def stages_of(editor: str) -> list[str]:
    """Return the columns of seconds that an editor has by its card, editing among them."""
    card = of_title(editor)
    needed = (card and card.training, card and card.statistics, True)
    return [f"{name}_seconds" for name, is_needed in zip(_STAGES, needed, strict=True) if is_needed]


def table_5(
    *, evaluations: Sequence[Path], trained: Sequence[Path] = (), statistics: Sequence[Path] = ()
) -> Table:
    """Return Table 5: time and peak memory of every editor at its LM's largest number of edits.

    The arguments and errors are those of `costs`.
    """
    data = costs(evaluations, trained=trained, statistics=statistics)
    columns: dict[str, Printed] = {
        **COUNTED,
        "Editor": lambda line: marked(line["editor"]),
        **{f"{name.title()}, s": column(f"{name}_seconds", ",.1f") for name in (*_STAGES, "total")},
        "Peak memory, MB": column("peak_memory_mb", ",.0f"),
    }
    return Table(
        number="5",
        caption=caption(_ABOUT, evaluations),
        grids=[Grid.of(data, columns, block=BLOCK)],
        data=data,
        notes=[*notes(data["editor"]), *map(_time_elsewhere, outside_numbers()["times"])],
    )


_ABOUT = (
    "Seconds and peak memory of the editors at the largest number of edits that all of an LM's "
    "editors were evaluated at; the layout is inferred",
    "Training is meta-training up the whole list of counts, statistics are MEMIT's covariances of "
    "keys, editing is the time from facts to shifts, a mean over edit sets",
    "Empty: the editor has no such stage",
    "Memory is the largest resident set of any of these processes, which hold the LM too",
)


def _time_elsewhere(entry: dict[str, Any]) -> str:
    hours = " and ".join(f"{hours} h with {editor}" for editor, hours in entry["hours"].items())
    return (
        f"Elsewhere: {entry['edits']:,} edits of {entry['lm']} took {hours}, training included, "
        f"on {entry['hardware']} ({entry['source']}; not measured here)."
    )


def costs(
    evaluations: Sequence[Path], *, trained: Sequence[Path] = (), statistics: Sequence[Path] = ()
) -> pd.DataFrame:
    """Return what each editor took on each LM, at the largest count that its editors share.

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
    editing = [stage for path in evaluations for stage in _editing(path)]
    before = [*map(_training, trained), *(one for path in statistics for one in _statistics(path))]
    evaluated = pd.DataFrame(editing)
    rows = []
    for lm in sorted(set(evaluated["lm"]), key=figure_order):
        of_lm = evaluated[evaluated["lm"] == lm]
        edits = largest_shared_count(of_lm, lm=lm)
        for editor in editor_order(of_lm["editor"], titles()):
            stages = [
                stage
                for stage in (*before, *editing)
                if stage[:2] == (lm, editor) and stage.edits in (None, edits)
            ]
            rows.append({"lm": lm, "editor": editor, "edits": edits} | _sums(stages))
    return pd.DataFrame(rows)


def _sums(stages: Sequence[_Stage]) -> dict[str, float]:
    """Return the columns of seconds and memory."""
    seconds = {}
    for name in _STAGES:
        took = [stage.seconds for stage in stages if stage.name == name]
        seconds[f"{name}_seconds"] = sum(took) if took else float("nan")
    total = sum(value for value in seconds.values() if not pd.isna(value))
    memory = max(stage.memory for stage in stages)
    return seconds | {"total_seconds": total, "peak_memory_mb": memory}


def _editing(path: Path) -> Iterator[_Stage]:
    """Yield the mean seconds of an edit at each number of edits."""
    facts, metadata = read(path)
    if not metadata.get("editing"):
        raise InputError(f"{path}: the time of editing is not recorded (run `malmen evaluate`)")
    lm, editor = facts[["lm", "editor"]].iloc[0]
    means: Mapping[Any, float] = (
        pd.DataFrame(metadata["editing"]).groupby("edits")["seconds"].mean().to_dict()
    )
    for edits, seconds in means.items():
        yield _Stage(lm, editor, "editing", seconds, metadata["peak_memory_mb"], edits)


def _training(path: Path) -> _Stage:
    metadata = _metadata(path)
    log = Path(path).with_suffix(".csv")
    if not log.is_file():
        raise InputError(f"{log}: no such file (`malmen train` writes it beside {path})")
    settings = metadata["settings"]
    editor = printed_name(settings["editor"])
    seconds = float(pd.read_csv(log)["seconds"].sum())
    return _Stage(settings["lm"], editor, "training", seconds, metadata["peak_memory_mb"])


def _statistics(path: Path) -> Iterator[_Stage]:
    """Yield the stage for every editor that needs statistics: alone, each would take as long."""
    metadata = _metadata(path)
    lm = metadata["settings"].get("lm", Path(path).stem)
    took = metadata["wall_seconds"], metadata["peak_memory_mb"]
    for editor in (card.title for card in cards() if card.statistics):
        yield _Stage(lm, editor, "statistics", *took)


def _metadata(path: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = read_json(path)
    for field in ("settings", "wall_seconds", "peak_memory_mb"):
        if field not in metadata:
            raise InputError(f"{path}: field '{field}' is missing (not the metadata of a run)")
    return metadata
