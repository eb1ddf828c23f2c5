"""Tables of scores: 1, all editors; 1b, numbers of other papers; 2, the ablation."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from malmen.experiment.cards import MALMEN, cards, marked, notes, of_title, titles
from malmen.lm.catalogue import lookup
from malmen.results.bootstrap import Interval
from malmen.results.comparison import PRE_EDIT, aggregate, editor_order, paired_difference
from malmen.results.metrics import HEADLINE, METRICS
from malmen.results.per_fact import endings, read, read_all
from malmen.support.errors import InputError
from malmen.tables.conventions import (
    BLOCK,
    COUNTED,
    caption,
    figure_order,
    largest_shared_count,
    outside_numbers,
)
from malmen.tables.typesetting import EMPTY, Cell, Grid, Printed, Table, column, percent, points

__all__ = [
    "FULL",
    "VARIANTS",
    "read_variants",
    "table_1",
    "table_1b",
    "table_2",
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


def _columns(name: str) -> list[str]:
    """Return the columns of an estimate and of the ends of its interval."""
    return [name, f"{name}_low", f"{name}_high"]


def _wide(means: pd.DataFrame) -> pd.DataFrame:
    """Return what `aggregate` does with the metrics side by side, by LM, editor and edits."""
    index = ["lm", "editor", "edits"]
    wide = means.pivot(index=index, columns="metric", values=["value", "low", "high"])
    wide = wide[[(end, metric) for metric in METRICS for end in ("value", "low", "high")]]
    wide.columns = pd.Index([column for metric in METRICS for column in _columns(metric)])
    return means.groupby(index)[["n_sets", "n_facts"]].first().astype("Int64").join(wide)


# --- Table 1 -------------------------------------------------------------------------------------

BUDGET_MARK = "§"
_ENDED = (
    f"{BUDGET_MARK} Meta-training ended by its budget of steps: the editor may have had more to "
    "learn. That of the others ended by patience: the validation score no longer improved."
)


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
    scores = _wide(aggregate(frame))
    editors = editor_order([PRE_EDIT, *frame["editor"]], titles())
    rows: list[tuple[str, str, int]] = []
    for lm in sorted(set(frame["lm"]), key=figure_order):
        of_lm = frame[frame["lm"] == lm]
        edits, present = largest_shared_count(of_lm, lm=lm), {PRE_EDIT, *of_lm["editor"]}
        rows += [
            (lm, name, edits)
            for name in editors
            if name in present or ((card := of_title(name)) and card.edits(lookup(lm)))
        ]
    index = pd.MultiIndex.from_tuples(rows, names=scores.index.names)
    data = scores.reindex(index).reset_index()
    ended = endings(evaluations)
    keys = data[["lm", "editor", "edits"]].itertuples(index=False, name=None)
    data["ended_by"] = [ended.get(key, "") for key in keys]
    return Table(
        number="1",
        caption=caption(_about_1(data), evaluations, metadata),
        grids=[_grid_1(data)],
        data=data,
        notes=[*notes(editors), *([_ENDED] if ended else [])],
    )


def _about_1(data: pd.DataFrame) -> list[str]:
    largest = dict(zip(data["lm"], data["edits"], strict=True))
    counts = "; ".join(f"{lookup(lm).title}: {edits:,} edits" for lm, edits in largest.items())
    return [
        "Each LM before editing and after, at the largest number of edits that all its editors "
        f"were evaluated at ({counts})",
        f"ES, GS and LS are mean token accuracies in percent, under {METRICS['es'].protocol}, on "
        "edited facts, equivalent prompts and unrelated prompts (a fact checker's answer is one "
        "token, its verdict), with 95% intervals from a bootstrap over edit sets and facts",
        "LS-consistency (LS-cons.) is the agreement with the LM's own predictions before editing; "
        "exact matches are answers right in every token",
        "Bold: the best editor of a column (the rows before editing and the oracle do not compete)",
    ]


def _grid_1(data: pd.DataFrame) -> Grid:
    oracles = {card.title for card in cards() if card.oracle}
    edited = data[~data["editor"].isin({PRE_EDIT} | oracles) & data["es"].notna()]
    competing = edited[edited.groupby("lm")["lm"].transform("size") > 1]  # else it beats nobody
    best = competing.groupby("lm")[list(METRICS)].max().map(percent).to_dict("index")

    def score(line: Mapping[str, Any], metric: str) -> Cell:
        cell = _score(line, metric)
        competes = line["editor"] not in {PRE_EDIT} | oracles
        wins = competes and cell.text == best.get(line["lm"], {}).get(metric)
        return Cell(text=cell.text, interval=cell.interval, bold=wins)

    columns: dict[str, Printed] = {
        **COUNTED,
        "Editor": lambda line: (
            marked(line["editor"]) + (BUDGET_MARK if "budget" in line["ended_by"] else "")
        ),
        **{one.heading: partial(score, metric=name) for name, one in METRICS.items()},
        "Sets": column("n_sets"),
    }
    return Grid.of(data, columns, block=BLOCK)


def _score(line: Mapping[str, Any], metric: str) -> Cell:
    value, *ends = (percent(line[column]) for column in _columns(metric))
    has_interval = metric in HEADLINE and value != EMPTY
    return Cell(text=value, interval=f"[{', '.join(ends)}]" if has_interval else "")


# --- Table 1b ------------------------------------------------------------------------------------


def table_1b() -> Table:
    """Return Table 1b: numbers of other papers, from `outside_numbers.yaml`.

    They are what those papers print. Nothing here is measured, and no value is filled in.
    """
    papers = outside_numbers()["scores"]
    names = ["paper", "lm", "edits", "editor", *HEADLINE]
    lines = [
        [paper["paper"], paper["lm"], edits, editor, *scores]
        for paper in papers
        for edits, editors in paper["edits"].items()
        for editor, scores in editors.items()
    ]
    data = pd.DataFrame(lines, columns=names)
    headings = ["Paper", "LM", "Edits", "Editor", *(METRICS[metric].title for metric in HEADLINE)]
    columns = {heading: column(name) for heading, name in zip(headings, names, strict=True)}
    return Table(
        number="1b",
        caption="Numbers of other papers, in percent as they print them, under other protocols: "
        "not to be compared with Table 1 number by number. Empty where a paper gives none.",
        grids=[Grid.of(data, columns | {"Edits": COUNTED["Edits"]})],
        data=data,
        notes=[f"{paper['paper']}, {paper['source']}: {paper['protocol']}" for paper in papers],
    )


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
        The results of all files, and the metadata of each.

    Raises:
        InputError: As `malmen.results.per_fact.read`.
    """
    files = [(Path(path).stem, *read(path)) for path in evaluations]
    frames = [facts.assign(editor=stem) for stem, facts, _ in files]
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
    scores: dict[Any, dict[str, Any]] = _wide(aggregate(frame)).to_dict("index")  # type: ignore
    lines: list[dict[str, Any]] = []
    for lm in sorted(set(frame["lm"]), key=figure_order):
        for edits, at_count in frame[frame["lm"] == lm].groupby("edits"):
            facts = dict(iter(at_count.groupby("editor")))
            if FULL not in facts or len(facts) == 1:  # a count that only one of them has
                continue
            for name in editor_order(facts, VARIANTS):
                line = {"lm": lm, "edits": edits, "variant": name}
                line |= scores[lm, name, edits]
                for metric in HEADLINE if name != FULL else ():
                    difference = paired_difference(facts[name], facts[FULL], metric)
                    line |= zip(_columns(f"{metric}_difference"), difference, strict=True)
                lines.append(line)
    if not lines:
        raise InputError(
            f"table 2 needs MALMEN ({FULL}.parquet) and a variant evaluated at the same counts"
        )
    estimates = [*HEADLINE, *(f"{metric}_difference" for metric in HEADLINE)]
    columns = ["lm", "edits", "variant", "n_sets", "n_facts"]
    columns += [column for name in estimates for column in _columns(name)]
    data = pd.DataFrame(lines)[columns].astype({"n_sets": int, "n_facts": int})
    return Table(
        number="2",
        caption=caption(_ABOUT_2, evaluations, metadata),
        grids=[
            _grid_2(data, "Scores, %", _score),
            _grid_2(data[data["variant"] != FULL], "Difference to MALMEN, points", _difference),
        ],
        data=data,
    )


def _grid_2(data: pd.DataFrame, title: str, cell: Any) -> Grid:
    columns: dict[str, Printed] = {
        **COUNTED,
        "Variant": lambda line: variant_title(line["variant"]),
        **{METRICS[metric].title: partial(cell, metric=metric) for metric in HEADLINE},
    }
    return Grid.of(data, columns, title=title, block=BLOCK)


def _difference(line: Mapping[str, Any], metric: str) -> Cell:
    difference = Interval(*(line[column] for column in _columns(f"{metric}_difference")))
    return points(difference, bold=difference.low > 0 or difference.high < 0)
