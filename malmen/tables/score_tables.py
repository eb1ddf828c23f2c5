"""Tables of scores: 1, all editors; 1b, numbers of other papers; 2, the ablation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from malmen.experiment.cards import LATER_MARK, MALMEN, later, marked, of_title, titles
from malmen.lm.catalogue import lookup
from malmen.results.comparison import paired_difference
from malmen.results.per_fact import (
    METRICS,
    PRE_EDIT,
    Interval,
    aggregate,
    editor_order,
    read,
    read_all,
    scale_of,
    sources,
)
from malmen.support.errors import InputError
from malmen.tables.typesetting import EMPTY, Cell, Grid, Table, percent, points

__all__ = [
    "FULL",
    "VARIANTS",
    "figure_order",
    "largest_shared_count",
    "later_notes",
    "outside_numbers",
    "read_variants",
    "table_1",
    "table_1b",
    "table_2",
    "title_of",
    "variant_title",
]

FULL = MALMEN.name
VARIANTS: dict[str, str] = {
    FULL: MALMEN.title,
    "all_tokens": "cache all tokens",
    "first_fc": "edit first FC in FFN",
    "first_fc_six": "edit first FC in 6 blocks",
    "sum": "sum in place of least squares",
    "no_normaliser": "no normaliser",
    "fixed_lambda": "λ fixed at 1",
    "token_weights": "tokens weigh equally",
}
"""The rows of Table 2 with their names in print: the full editor, then the variants.

Variants of other names follow, under those.
"""

_PRINTED = ("es", "gs", "ls")
"""The measures printed with an interval."""

_SHORT = METRICS | {"ls_consistency": "LS-cons."}


def title_of(lm: str) -> str:
    """Return the LM's name in print, with the paper's LM that it stands in for."""
    entry = lookup(lm)
    return ", in place of ".join(filter(None, (entry.title, entry.stands_for)))


def later_notes(editors: Iterable[str]) -> list[str]:
    """Return the footnotes to that mark, one for each of the editors that has it."""
    return [
        f"{LATER_MARK} {card.title} ({card.later}) is later than the paper."
        for card in later(editors)
    ]


def figure_order(lm: str) -> str:
    """Return a key that sorts LMs in the order of their figures."""
    return lookup(lm).figure or lm


def _caption(
    about: Sequence[str], evaluations: Sequence[Path], metadata: Sequence[Mapping[str, Any]]
) -> str:
    """Return the sentences about a table, with the scale before and the attributions behind."""
    scale, origins = scale_of(evaluations), sources(metadata)
    before = [f"Results at {scale} scale"] if scale else []
    behind = [f"Data and models: {'; '.join(origins)}"] if origins else []
    return ". ".join([*before, *about, *behind]) + "."


# --- Table 1 -------------------------------------------------------------------------------------


def table_1(*, evaluations: Sequence[Path]) -> Table:
    """Return Table 1: each LM, before and after editing, at its largest number of edits.

    The number of edits of an LM is the largest that all its editors were evaluated at. An editor
    that other LMs were edited with but this one was not has an empty row, unless the catalogue has
    no modules of this one for it.

    Args:
        evaluations: Per-fact results; the editors and LMs are those the files hold.

    Raises:
        InputError: The editors of an LM have no number of edits in common.
    """
    frame, metadata = read_all(evaluations)
    means = aggregate(frame, titles())
    editors = editor_order(means["editor"], titles())
    lms = sorted(set(means["lm"]), key=figure_order)
    blocks = [_at_largest_count(lm, means[means["lm"] == lm], editors) for lm in lms]
    data = pd.concat(blocks, ignore_index=True)
    return Table(
        number="1",
        caption=_caption(_about_1(data), evaluations, metadata),
        grids=[_grid_1(data)],
        data=data,
        notes=later_notes(editors),
    )


def largest_shared_count(counts: Mapping[str, set[int]], *, lm: str) -> int:
    """Return the largest number of edits that all editors were evaluated at.

    Args:
        counts: The numbers of edits by editor.
        lm: The LM to name in an error.

    Raises:
        InputError: There is none.
    """
    common = set.intersection(*counts.values())
    if not common:
        raise InputError(
            f"LM '{lm}': no number of edits that {', '.join(counts)} were all evaluated at "
            "(evaluate them at the same --edits)"
        )
    return max(common)


def _at_largest_count(lm: str, means: pd.DataFrame, editors: Sequence[str]) -> pd.DataFrame:
    """Return one row an editor, with value, low and high of each metric as columns."""
    evaluated = means[means["editor"] != PRE_EDIT]
    counts = {name: set(evaluated["edits"][evaluated["editor"] == name]) for name in editors[1:]}
    counts = {name: of_editor for name, of_editor in counts.items() if of_editor}
    edits = largest_shared_count(counts, lm=lm)
    means = means[means["edits"] == edits]
    wide = means.pivot(index="editor", columns="metric", values=["value", "low", "high"])
    sizes = means.groupby("editor")[["n_sets", "n_facts"]].first()
    rows = [name for name in editors if (card := of_title(name)) is None or card.edits(lookup(lm))]
    table = pd.DataFrame({"lm": lm, "editor": rows, "edits": edits}).set_index("editor", drop=False)
    table = table.join(sizes.astype("Int64"))
    for metric in METRICS:
        for column, end in (
            (metric, "value"),
            (f"{metric}_low", "low"),
            (f"{metric}_high", "high"),
        ):
            table[column] = wide[end].get(metric)
    return table


def _about_1(data: pd.DataFrame) -> list[str]:
    largest = dict(zip(data["lm"], data["edits"], strict=True))
    counts = "; ".join(f"{lookup(lm).title}: {edits:,} edits" for lm, edits in largest.items())
    return [
        "Each LM before editing and after, at the largest number of edits that all its editors "
        f"were evaluated at ({counts})",
        "ES, GS and LS are mean token accuracies in percent, under teacher forcing, on edited "
        "facts, equivalent prompts and unrelated prompts (a fact checker's answer is one token, "
        "its verdict), with 95% intervals from a bootstrap over edit sets and facts",
        "LS-consistency (LS-cons.) is the agreement with the LM's own predictions before editing; "
        "exact matches are answers right in every token",
        "Bold: the best editor of a column (the row before editing does not compete)",
    ]


def _grid_1(data: pd.DataFrame) -> Grid:
    columns = ["LM", "Edits", "Editor", *_SHORT.values(), "Sets"]
    records: list[dict[str, Any]] = data.to_dict("records")  # type: ignore[assignment]
    rows: list[list[Cell | str]] = []
    for lm, lines in groupby(records, key=lambda record: record["lm"]):
        block = list(lines)
        best = _best(block)
        for line in block:
            scores = [_score(line, metric, bold=_is_best(line, metric, best)) for metric in METRICS]
            sets = EMPTY if pd.isna(line["n_sets"]) else f"{line['n_sets']}"
            about = [title_of(str(lm)), f"{line['edits']:,}", marked(line["editor"])]
            rows.append([*about, *scores, sets])
    return Grid(columns=columns, rows=rows, block="{LM}, {Edits} edits")


def _best(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the best editors' score in print, by metric."""
    editors = [line for line in lines if line["editor"] != PRE_EDIT and not pd.isna(line["es"])]
    if len(editors) == 1:  # it has beaten nobody
        return {}
    return {metric: percent(max(line[metric] for line in editors)) for metric in METRICS}


def _is_best(line: Mapping[str, Any], metric: str, best: Mapping[str, str]) -> bool:
    """Tell whether a line is an editor's and has, in print, the best score."""
    return line["editor"] != PRE_EDIT and percent(line[metric]) == best.get(metric)


def _score(line: Mapping[str, Any], metric: str, *, bold: bool = False) -> Cell:
    value = percent(line[metric])
    if value == EMPTY:
        return Cell(text=EMPTY)
    ends = ", ".join(percent(line[f"{metric}_{end}"]) for end in ("low", "high"))
    return Cell(text=value, interval=f"[{ends}]" if metric in _PRINTED else "", bold=bold)


# --- Table 1b ------------------------------------------------------------------------------------


def table_1b() -> Table:
    """Return Table 1b: numbers of other papers, from `outside_numbers.yaml`.

    They are what those papers print. Nothing here is measured, and no value is filled in.
    """
    papers = outside_numbers()["scores"]
    rows = [
        [paper["paper"], paper["lm"], edits, editor, *scores]
        for paper in papers
        for edits, editors in paper["edits"].items()
        for editor, scores in editors.items()
    ]
    columns = ["Paper", "LM", "Edits", "Editor", *(METRICS[metric] for metric in _PRINTED)]
    cells = [
        [paper, lm, f"{edits:,}", editor, *(score or EMPTY for score in scores)]
        for paper, lm, edits, editor, *scores in rows
    ]
    return Table(
        number="1b",
        caption="Numbers of other papers, in percent as they print them, under other protocols: "
        "not to be compared with Table 1 number by number. Empty where a paper gives none.",
        grids=[Grid(columns=columns, rows=cells)],
        data=pd.DataFrame(rows, columns=["paper", "lm", "edits", "editor", *_PRINTED]),
        notes=[f"{paper['paper']}, {paper['source']}: {paper['protocol']}" for paper in papers],
    )


def outside_numbers() -> dict[str, Any]:
    """Return the numbers of other papers, as `outside_numbers.yaml` explains them."""
    file = resources.files("malmen.tables").joinpath("outside_numbers.yaml")
    text = file.read_text(encoding="utf-8")
    numbers: dict[str, Any] = yaml.safe_load(text)
    return numbers


# --- Table 2 -------------------------------------------------------------------------------------

_ABOUT_2 = (
    "Ablation: MALMEN and variants of it that differ in one choice, trained and evaluated alike",
    "The layout is inferred; of the paper's rows, “cache all tokens” and “edit first FC in FFN” "
    "are known",
    "ES, GS and LS as in Table 1",
    "Differences are those to MALMEN in percentage points, fact by fact on the same edit sets, "
    "with 95% intervals from a paired bootstrap over edit sets and facts; bold: the interval "
    "excludes zero",
)


def read_variants(evaluations: Sequence[Path]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Read the evaluations of MALMEN and of its variants; `editor` becomes the file's stem.

    Returns:
        The rows of all files, and the metadata of each.

    Raises:
        InputError: As `malmen.results.per_fact.read`.
    """
    files = [(Path(path).stem, *read(path)) for path in evaluations]
    frames = [rows.assign(editor=stem) for stem, rows, _ in files]
    return pd.concat(frames, ignore_index=True), [metadata for *_, metadata in files]


def variant_title(variant: str) -> str:
    """Return a variant's name in print."""
    return VARIANTS.get(variant, variant.replace("_", " "))


def table_2(*, evaluations: Sequence[Path]) -> Table:
    """Return Table 2: MALMEN and its variants at every number of edits that both have.

    Args:
        evaluations: Per-fact results of MALMEN, `malmen.parquet`, and of each variant, in files
            named as in `VARIANTS`.

    Raises:
        InputError: MALMEN itself is missing, or there is no variant at its counts.
    """
    frame, metadata = read_variants(evaluations)
    lines = []
    for lm in sorted(set(frame["lm"]), key=figure_order):
        for edits in sorted(set(frame["edits"][frame["lm"] == lm])):
            at_count = frame[(frame["lm"] == lm) & (frame["edits"] == edits)]
            present = list(dict.fromkeys([*VARIANTS, *sorted(set(at_count["editor"]))]))
            present = [name for name in present if name in set(at_count["editor"])]
            if present[0] != FULL or len(present) == 1:  # a count that only one of them has
                continue
            rows = {name: at_count[at_count["editor"] == name] for name in present}
            lines += [
                {"lm": lm, "edits": edits, "variant": name}
                | _variant_scores(rows[name], None if name == FULL else rows[FULL])
                for name in present
            ]
    if not lines:
        raise InputError(
            f"table 2 needs MALMEN ({FULL}.parquet) and a variant evaluated at the same counts"
        )
    data = pd.DataFrame(lines)
    return Table(
        number="2",
        caption=_caption(_ABOUT_2, evaluations, metadata),
        grids=[_scores_2(data), _differences_2(data)],
        data=data,
    )


def _variant_scores(rows: pd.DataFrame, full: pd.DataFrame | None) -> dict[str, Any]:
    """Return the scores of a variant and its differences to the full editor, if it is another."""
    means = aggregate(rows, titles())
    means = means[means["editor"] != PRE_EDIT].set_index("metric")
    scores: dict[str, Any] = {name: means[name].iloc[0] for name in ("n_sets", "n_facts")}
    for metric in _PRINTED:
        scores |= _columns(metric, Interval(*means.loc[metric, ["value", "low", "high"]]))
    if full is not None:
        for metric in _PRINTED:
            scores |= _columns(f"{metric}_difference", paired_difference(rows, full, metric))
    return scores


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _grid_2(data: pd.DataFrame, title: str, cell: Callable[[dict[str, Any], str], Cell]) -> Grid:
    columns = ["LM", "Edits", "Variant", *(METRICS[metric] for metric in _PRINTED)]
    records: list[dict[str, Any]] = data.to_dict("records")  # type: ignore[assignment]
    rows: list[list[Cell | str]] = [
        [title_of(line["lm"]), f"{line['edits']:,}", variant_title(line["variant"])]
        + [cell(line, metric) for metric in _PRINTED]
        for line in records
    ]
    return Grid(columns=columns, rows=rows, title=title, block="{LM}, {Edits} edits")


def _scores_2(data: pd.DataFrame) -> Grid:
    return _grid_2(data, "Scores, %", _score)


def _differences_2(data: pd.DataFrame) -> Grid:
    def cell(line: dict[str, Any], metric: str) -> Cell:
        ends = (line[f"{metric}_difference{end}"] for end in ("", "_low", "_high"))
        difference = Interval(*ends)
        return points(difference, bold=difference.low > 0 or difference.high < 0)

    return _grid_2(data[data["variant"] != FULL], "Difference to MALMEN, points", cell)
