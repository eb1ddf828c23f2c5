"""Tables of facts about a run: 3, hyper-parameters; 4, data sets and language models."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from malmen.data.rows import read_rows
from malmen.experiment.cards import MALMEN, printed_name, titles
from malmen.experiment.published_settings import published_settings
from malmen.lm.catalogue import Entry, lookup
from malmen.results.comparison import editor_order
from malmen.settings import MemitSettings
from malmen.support.errors import InputError
from malmen.support.files import read_json
from malmen.tables.conventions import COUNTED, figure_order
from malmen.tables.typesetting import EMPTY, Grid, Printed, Table, column, percent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["table_3", "table_4"]

_TRAINING = "training"
_DEFAULTS = {
    key: value
    for key, value in asdict(MemitSettings()).items()
    if key in {"context_length", "context_top_k", "kl_at", "kl_direction", "precision"}
}
"""What a configuration may leave to the default."""

_SPLITS = ("train", "validation", "evaluation")

# --- Table 3 -------------------------------------------------------------------------------------


def table_3(*, settings: Path) -> Table:
    """Return Table 3: the editors' hyper-parameters on each LM, beside the published ones.

    Args:
        settings: JSON file of a run's settings by LM, hyper-parameters resolved.

    Raises:
        InputError: The file is missing or not JSON.
    """
    data = _hyper_parameters(read_json(settings))
    published = published_settings().items()
    sources = [f"{printed_name(name)}, {known['source']}" for name, known in published]
    return Table(
        number="3",
        caption="Hyper-parameters of the editors on each LM, and the published ones as far as they "
        "are known; the layout is inferred. Training: the most steps of meta-training at each "
        "number of edits, in this order, each starting from the one before. Empty: not used, or "
        "not known.",
        grids=[_grid_3(data)],
        data=data,
        notes=["Published: " + "; ".join(sources) + "."],
    )


def _hyper_parameters(settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row an editor, hyper-parameter and LM (or "published")."""
    published = {name: known["values"] for name, known in published_settings().items()}
    columns = {"published": published}
    for lm in sorted(settings, key=figure_order):
        also = {_TRAINING: _schedule(settings[lm][_TRAINING]), **_DEFAULTS}
        columns[lm] = {
            name: {key: also[key] for key in also if key in published.get(name, {})} | hyper
            for name, hyper in settings[lm]["editors"].items()
        }
    used = {printed_name(name): name for lm in settings for name in settings[lm]["editors"]}
    rows = [
        {"editor": printed, "setting": key, "column": column, "value": _plain(hyper[key])}
        for printed in editor_order(used, titles())
        for key in dict.fromkeys(k for by in columns.values() for k in by.get(used[printed], {}))
        for column, by in columns.items()
        if key in (hyper := by.get(used[printed], {}))
    ]
    return pd.DataFrame(rows)


def _schedule(stages: Sequence[Mapping[str, int]]) -> str:
    return ", ".join(f"{stage['steps']} at {stage['edits']}" for stage in stages)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _grid_3(data: pd.DataFrame) -> Grid:
    cells = data.set_index(["editor", "setting", "column"])["value"].to_dict()
    names = list(dict.fromkeys(data["column"]))
    titles = ["Published" if name == "published" else lookup(name).title for name in names]
    rows = [
        [
            editor,
            setting.replace("_", " "),
            *(cells.get((editor, setting, n), EMPTY) for n in names),
        ]
        for editor, setting in dict.fromkeys(zip(data["editor"], data["setting"], strict=True))
    ]
    return Grid(
        columns=["Editor", "Hyper-parameter", *titles],
        rows=rows,
        block="{Editor}",
        widths=dict.fromkeys(titles, 0.105),
    )


# --- Table 4 -------------------------------------------------------------------------------------


def table_4(
    *,
    settings: Path,
    weights: Sequence[Path],
    rows: Sequence[Path],
    facts: Path | None = None,
) -> Table:
    """Return Table 4: the data and the LMs, and where both come from.

    Args:
        settings: JSON file of a run's settings by LM, hyper-parameters resolved.
        weights: Folders of the LMs, named as in the catalogue.
        rows: Files of rows, `<lm>/<split>.jsonl`.
        facts: File of `malmen facts`, if rows were made from it.

    Raises:
        InputError: A file or folder is missing, or malformed.
    """
    runs = read_json(settings)
    lms = sorted(runs, key=figure_order)
    folders = {Path(folder).name: Path(folder) for folder in weights}
    if missing := [lm for lm in lms if lm not in folders]:
        raise InputError(f"table 4: no --weights of {', '.join(missing)} (folders named so)")
    data = pd.DataFrame(
        {"lm": lm} | _rows(lm, rows) | _model(lm, folders[lm], runs[lm]) for lm in lms
    )
    made_from = "" if facts is None else f" Rows are made from {_count(facts):,} facts."
    return Table(
        number="4",
        caption="Data sets and language models; the layout is inferred. Subjects and relations are "
        "counted over all three splits, whose subjects differ. Accuracy before editing is that of "
        "an LM trained here, in percent, on facts that it was trained on and on facts about other "
        "subjects. Edited modules are given with key size × value size." + made_from,
        grids=[_data_grid(data), _model_grid(data)],
        data=data,
    )


def _rows(lm: str, paths: Sequence[Path]) -> dict[str, int]:
    """Return the number of rows of every split, and of their subjects and relations."""
    splits = {Path(p).stem: Path(p) for p in paths if Path(p).parent.name == lm}
    if missing := [split for split in _SPLITS if split not in splits]:
        raise InputError(f"table 4: no --rows of {lm}/{missing[0]}.jsonl")
    found = {split: read_rows(splits[split], lookup(lm).task) for split in _SPLITS}
    sizes = {f"{split}_rows": len(found[split]) for split in _SPLITS}
    everything = [row for split in found.values() for row in split]
    return sizes | {
        "subjects": len({row.subject for row in everything} - {None}),
        "relations": len({row.relation for row in everything} - {None}),
    }


def _model(lm: str, folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    from malmen.lm.model_tree import build, stacks

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no language model there (config.json is missing)")
    entry = lookup(lm)
    model = build(replace(entry, built=read_json(folder / "config.json")))
    accuracy = read_json(path) if (path := folder / "accuracy.json").is_file() else {}
    cached = run["editors"].get(MALMEN.name, {}).get("cached")
    return {
        "data": "files of the configuration" if "sources" in run else "GeoNames, CC BY 4.0",
        "known_accuracy": accuracy.get("known", accuracy.get("training")),
        "held_out_accuracy": accuracy.get("held_out"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "blocks": sum(map(len, stacks(model).values())),
        "edited": _modules(entry, model),
        "cached": _cached(entry, model, cached),
        "origin": _origin(entry),
    }


def _modules(entry: Entry, model: "PreTrainedModel") -> str:
    """Return the edited modules, those of several blocks together, with key and value size."""
    from malmen.lm.model_tree import leaf

    leaves = [leaf(name, model.get_submodule(name)) for name in entry.edited]
    parts = [re.fullmatch(r"(.*?)\.(\d+)\.(.*)", one.name) for one in leaves]
    found = sorted(
        (part[1], part[3], int(part[2]), f"{one.inputs} × {one.outputs}")
        for one, part in zip(leaves, parts, strict=True)
        if part
    )
    modules = []
    for (before, behind), group in groupby(found, key=lambda module: module[:2]):
        blocks, shapes = zip(*(module[2:] for module in group), strict=True)
        which = f"{{{blocks[0]}..{blocks[-1]}}}" if len(blocks) > 1 else blocks[0]
        modules.append(f"{before}.{which}.{behind} ({', '.join(dict.fromkeys(shapes))})")
    return "; ".join(modules)


def _cached(entry: Entry, model: "PreTrainedModel", cached: str | None) -> str:
    if model.config.is_encoder_decoder:
        return "every token of encoder and decoder"
    if cached != "ans":
        return "every token" if cached else EMPTY
    return "the first, [CLS]" if entry.task == "verdict" else "those that predict the answer"


def _origin(entry: Entry) -> str:
    if entry.built:
        return "built and pre-trained here on the facts"
    if entry.base:
        base = lookup(entry.base)
        return f"fine-tuned here from {base.title} ({_publisher(base)})"
    return _publisher(entry)


def _publisher(entry: Entry) -> str:
    if package := entry.package:
        return f"{package.name} {package.version}, {package.licence}"
    if hub := entry.hub:
        return f"{hub.repository} at {hub.revision[:8]}, {hub.licence}"
    return EMPTY


def _count(path: Path) -> int:
    with Path(path).open(encoding="utf-8") as file:
        return sum(1 for line in file if line.strip())


def _data_grid(data: pd.DataFrame) -> Grid:
    sizes = [*(f"{split}_rows" for split in _SPLITS), "subjects", "relations"]
    columns: dict[str, Printed] = {
        "LM": lambda line: lookup(line["lm"]).title,
        **{_heading(name): column(name, ",") for name in sizes},
        "Accuracy, known": lambda line: percent(line["known_accuracy"]),
        "Accuracy, held out": lambda line: percent(line["held_out_accuracy"]),
        "Source": column("data"),
    }
    return Grid.of(data, columns, title="Data", widths={"LM": 0.12, "Source": 0.12})


def _heading(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _model_grid(data: pd.DataFrame) -> Grid:
    columns: dict[str, Printed] = {
        "LM": COUNTED["LM"],
        "Parameters, millions": lambda line: f"{line['parameters'] / 1e6:,.2f}",
        "Blocks": column("blocks"),
        "Edited modules": column("edited"),
        "Cached tokens": column("cached"),
        "Origin": column("origin"),
    }
    widths = {"LM": 0.13, "Edited modules": 0.32, "Cached tokens": 0.11, "Origin": 0.18}
    return Grid.of(data, columns, title="Language models", widths=widths)
