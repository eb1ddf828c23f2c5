"""The paper's tables from per-fact results, in Markdown, LaTeX and CSV."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from malmen.catalogue import lookup
from malmen.errors import InputError
from malmen.files import atomic
from malmen.results import (
    METRICS,
    PRE_EDIT,
    Interval,
    aggregate,
    editor_order,
    read_all,
    scale_of,
    sources,
)

__all__ = ["TABLES", "escape_latex", "table_1"]

_WITH_INTERVAL = ("es", "gs", "ls")
_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
}


@dataclass(frozen=True)
class Line:
    """One line of a table: an editor (or the LM before editing) and its scores by metric."""

    lm: str
    editor: str
    edits: int
    n_sets: int
    n_facts: int
    scores: dict[str, Interval]


def table_1(evaluations: Sequence[Path], out_dir: Path) -> list[Path]:
    """Write Table 1: each LM, before and after editing, at its largest number of edits.

    The number of edits of an LM is the largest that all its editors were evaluated at; having
    none in common is an `InputError`.

    Args:
        evaluations: Per-fact results; the editors and LMs are those the files hold.
        out_dir: Folder for `table_1.md`, `table_1.tex` and `table_1.csv`. The CSV holds
            fractions, one number a column; the other two hold percentages.

    Returns:
        The three paths.
    """
    frame, metadata = read_all(evaluations)
    lines = _lines(_at_largest_common_count(aggregate(frame)))
    caption = _caption(lines, scale_of(evaluations), sources(metadata))
    best = _best(lines)
    texts = {
        ".md": _to_markdown(_cells(lines, best, _markdown_cell), caption),
        ".tex": _to_latex(_cells(lines, best, _latex_cell), caption, label="tab:largest-count"),
        ".csv": _to_csv(lines),
    }
    return _write(Path(out_dir) / "table_1", texts)


TABLES: dict[int, Callable[[Sequence[Path], Path], list[Path]]] = {1: table_1}
"""The tables by number; each takes evaluation files and an output folder."""


def _at_largest_common_count(means: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for lm, group in means.groupby("lm"):
        counts = group[group["editor"] != PRE_EDIT].groupby("editor")["edits"].agg(set)
        common = set.intersection(*counts)
        if not common:
            raise InputError(
                f"LM '{lm}': no number of edits that {', '.join(counts.index)} were all "
                "evaluated at (evaluate them at the same --edits)"
            )
        parts.append(group[group["edits"] == max(common)])
    return pd.concat(parts, ignore_index=True)


def _lines(means: pd.DataFrame) -> list[Line]:
    """Return the lines in the order of the rows: by LM, then by `editor_order`."""
    found: dict[tuple[str, str], Line] = {}
    rows: list[dict[str, Any]] = means.to_dict("records")  # type: ignore[assignment]
    for row in rows:
        fields = {name: row[name] for name in ("lm", "editor", "edits", "n_sets", "n_facts")}
        line = found.setdefault((row["lm"], row["editor"]), Line(**fields, scores={}))
        line.scores[row["metric"]] = Interval(row["value"], row["low"], row["high"])
    order = editor_order(means["editor"])
    return sorted(found.values(), key=lambda line: (line.lm, order.index(line.editor)))


def _caption(lines: Sequence[Line], scale: str | None, origins: Sequence[str]) -> str:
    counts = {lookup(line.lm).title: f"{line.edits:,} edits" for line in lines}
    sentences = [
        "Each LM before editing and after, at the largest number of edits that all its editors "
        f"were evaluated at ({'; '.join(f'{lm}: {count}' for lm, count in counts.items())})",
        "ES, GS and LS are mean token accuracies in percent, under teacher forcing, on edited "
        "facts, equivalent prompts and unrelated prompts (a fact checker's answer is one token, "
        "its verdict), with 95% intervals from a bootstrap over edit sets and facts",
        "LS-consistency (LS-cons.) is the agreement with the LM's own predictions before editing; "
        "exact matches are answers right in every token",
        "Bold: the best editor of a column (the row before editing does not compete)",
    ]
    if scale:
        sentences.insert(0, f"Results at {scale} scale")
    if origins:
        sentences.append(f"Data and models: {'; '.join(origins)}")
    return ". ".join(sentences) + "."


def _best(lines: Sequence[Line]) -> set[tuple[str, str, str]]:
    """Return (lm, editor, metric) of the best editors, ties in print included."""
    best = set()
    for lm, group in groupby(lines, key=lambda line: line.lm):
        editors = [line for line in group if line.editor != PRE_EDIT]
        if len(editors) == 1:  # it has beaten nobody
            continue
        for metric in METRICS:
            values = {line.editor: line.scores[metric].value for line in editors}
            top = _percent(max(values.values()))
            best |= {(lm, name, metric) for name in values if _percent(values[name]) == top}
    return best


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _cells(
    lines: Sequence[Line], best: set[tuple[str, str, str]], cell: Callable[..., str]
) -> pd.DataFrame:
    """Return the cells of the printed table, formatted by `cell`."""
    rows = []
    for line in lines:
        row = {"LM": cell(lookup(line.lm).title), "Editor": cell(line.editor)}
        for metric, name in METRICS.items():
            row[name] = "–"
            if score := line.scores.get(metric):
                value, *ends = map(_percent, score)
                interval = f"[{', '.join(ends)}]" if metric in _WITH_INTERVAL else ""
                row[name] = cell(value, interval, bold=(line.lm, line.editor, metric) in best)
        sizes = {"Edits": line.edits, "Sets": line.n_sets, "Facts": line.n_facts}
        rows.append(row | {name: f"{size:,}" for name, size in sizes.items()})
    return pd.DataFrame(rows)


def _markdown_cell(text: str, interval: str = "", *, bold: bool = False) -> str:
    text = text.replace("|", r"\|")
    return " ".join(filter(None, [f"**{text}**" if bold else text, interval]))


def _latex_cell(text: str, interval: str = "", *, bold: bool = False) -> str:
    text = escape_latex(text)
    small = rf"{{\tiny {interval}}}" if interval else ""
    return " ".join(filter(None, [rf"\textbf{{{text}}}" if bold else text, small]))


def escape_latex(text: str) -> str:
    """Return text in which LaTeX's special characters stand for themselves."""
    return "".join(_LATEX_SPECIAL.get(sign, sign) for sign in text)


def _to_csv(lines: Sequence[Line]) -> str:
    """Return one row a line, with value, low and high of each metric as columns."""
    rows = []
    for line in lines:
        row: dict[str, Any] = {"lm": line.lm, "editor": line.editor, "edits": line.edits}
        row |= {"n_sets": line.n_sets, "n_facts": line.n_facts}
        for metric in METRICS:
            score = line.scores.get(metric, Interval(*[float("nan")] * 3))
            row |= {metric: score.value, f"{metric}_low": score.low, f"{metric}_high": score.high}
        rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False)


def _to_markdown(cells: pd.DataFrame, caption: str) -> str:
    alignment = ["left" if name in ("LM", "Editor") else "right" for name in cells.columns]
    body = cells.to_markdown(index=False, disable_numparse=True, colalign=alignment)
    return f"{caption}\n\n{body}\n"


def _to_latex(cells: pd.DataFrame, caption: str, label: str) -> str:
    """Return a complete table environment; it needs the package booktabs and nothing else.

    The LM and its number of edits head a block of rows, so that the table fits a text width.
    """
    blocks = []
    for (lm, edits), block in cells.groupby(["LM", "Edits"], sort=False):
        lines = [rf"\multicolumn{{10}}{{l}}{{\emph{{{lm}, {edits} edits}}}} \\"]
        rows = block.drop(columns=["LM", "Edits"]).to_numpy()
        lines += [" & ".join(row).replace("–", "--") + r" \\" for row in rows]
        blocks.append("\n".join(lines))
    return "\n".join(
        [
            r"\begin{table}[tbp]",
            r"\centering",
            rf"\caption{{{escape_latex(caption)}}}",
            rf"\label{{{label}}}",
            r"\medskip",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            r"\begin{tabular}{lrrrrrrrrr}",
            r"\toprule",
            r"& \multicolumn{4}{c}{Tokens, \%} & \multicolumn{3}{c}{Exact matches, \%} \\",
            r"\cmidrule(lr){2-5} \cmidrule(lr){6-8}",
            r"Editor & ES & GS & LS & LS-cons. & ES & GS & LS & Sets & Facts \\",
            r"\midrule",
            "\n\\midrule\n".join(blocks),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _write(stem: Path, texts: dict[str, str]) -> list[Path]:
    for suffix, text in texts.items():
        with atomic(stem.with_suffix(suffix)) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [stem.with_suffix(suffix) for suffix in texts]
