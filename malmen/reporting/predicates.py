"""What a claim can measure in results, and the results it is measured in.

Every predicate is a class whose fields stand in `workflow/claims.yaml` under `test`; the field
`kind` there is its name in `KINDS`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import pandas as pd

from malmen.experiment.cards import cards, printed_name
from malmen.lm.catalogue import lookup
from malmen.results import memory as memory_results
from malmen.results.bootstrap import Interval, percentile_interval
from malmen.results.comparison import MEASURES, level, paired_difference
from malmen.results.per_fact import read
from malmen.support.files import read_json
from malmen.tables.costs import costs, stages_of
from malmen.tables.score_tables import FULL, VARIANTS, read_variants, variant_title

__all__ = ["KINDS", "Evidence", "Found", "NotTestableError", "Predicate"]

_NAN = float("nan")
_PROCEDURES = {
    "training": memory_results.TRAINING,
    "editing": memory_results.EDITING,
    "training_on_disk": memory_results.SPILLED,
    "one_graph": memory_results.PLAIN,
}


class NotTestableError(Exception):
    """Say why results cannot test a claim; never leaves `malmen.reporting.claims`."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The results of a run, by where they lie.

    Attributes:
        evaluations: Per-fact results of every editor.
        ablations: Per-fact results of MALMEN's variants, named as in `VARIANTS`.
        trained: Run metadata of the trained editors.
        statistics: Run metadata of key statistics.
        memory: What `malmen memory` measured.
    """

    evaluations: Sequence[Path]
    ablations: Sequence[Path] = ()
    trained: Sequence[Path] = ()
    statistics: Sequence[Path] = ()
    memory: Path | None = None

    @cached_property
    def files(self) -> dict[tuple[str, str], Path]:
        """The evaluation of each LM and editor, or variant of MALMEN."""
        return {key: path for key, (path, _) in self._frames.items()}

    @property
    def lms(self) -> list[str]:
        """The LMs that editors were evaluated on."""
        return list(dict.fromkeys(lm for lm, _ in self._evaluated))

    @property
    def ablated(self) -> list[str]:
        """The LMs that variants of MALMEN were evaluated on."""
        return list(dict.fromkeys(lm for lm, _ in self._ablated))

    def frame(self, lm: str, editor: str) -> pd.DataFrame:
        """Return the per-fact results of an editor, or of a variant of MALMEN, on an LM.

        Raises:
            NotTestableError: There are none.
        """
        if (lm, editor) not in self._frames:
            raise NotTestableError(f"no results of {variant_title(editor)} on {lookup(lm).title}")
        return self._frames[lm, editor][1]

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What each editor took."""
        return costs(self.evaluations, trained=self.trained, statistics=self.statistics)

    @cached_property
    def trained_at(self) -> dict[tuple[str, str], int]:
        """The largest number of edits that each editor was trained at on each LM."""
        largest: dict[tuple[str, str], int] = {}
        for settings in (read_json(path)["settings"] for path in self.trained):
            key = settings["lm"], printed_name(settings["editor"])
            largest[key] = max(settings["edits"], largest.get(key, 0))
        return largest

    @cached_property
    def _frames(self) -> "_Frames":
        return self._evaluated | self._ablated

    @cached_property
    def _evaluated(self) -> "_Frames":
        return _by_editor((path, read(path)[0]) for path in self.evaluations)

    @cached_property
    def _ablated(self) -> "_Frames":
        # The full editor stands among the evaluations.
        variants = [path for path in self.ablations if Path(path).stem != FULL]
        return _by_editor((path, read_variants([path])[0]) for path in variants)


_Frames = dict[tuple[str, str], tuple[Path, pd.DataFrame]]


def _by_editor(files: Iterable[tuple[Path, pd.DataFrame]]) -> _Frames:
    """Return the rows of each LM and editor, with the file that they stand in."""
    return {
        (str(lm), str(editor)): (path, rows)
        for path, frame in files
        for (lm, editor), rows in frame.groupby(["lm", "editor"])
    }


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a predicate found.

    Attributes:
        interval: The estimate with its 95% interval; the ends are NaN where it has none.
        where: At which numbers of edits.
        files: The results it was found in.
        at_least: Whether the results only say that the value is no smaller.
    """

    interval: Interval
    where: str
    files: Sequence[Path]
    at_least: bool = False


class Predicate(Protocol):
    """What is measured of an LM or, where `of_lm` is false, of the run."""

    unit: ClassVar[Literal["points", "ratio"]]
    of_lm: ClassVar[bool]

    def lms(self, evidence: Evidence) -> Sequence[str]:
        """Return the LMs that there are results of."""

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Measure it, or raise `NotTestableError`."""


class _OfLM:
    of_lm: ClassVar[bool] = True

    def lms(self, evidence: Evidence) -> Sequence[str]:
        return evidence.lms


class _OfRun:
    of_lm: ClassVar[bool] = False

    def lms(self, evidence: Evidence) -> Sequence[str]:
        return [""]


def _one_of(names: Iterable[str] | Callable[[], Iterable[str]]) -> Any:
    """Declare a field with choices; those that depend on the run are asked for when one is read."""
    if callable(names):
        return field(metadata={"choices": names})
    known = tuple(names)
    return field(metadata={"choices": lambda: known})


def _editors() -> list[str]:
    return [card.title for card in cards()]


@dataclass(frozen=True, kw_only=True)
class Difference(_OfLM):
    """A measure of one editor minus that of another, on the same facts, at their largest count."""

    unit: ClassVar[Literal["points"]] = "points"
    editor: str = _one_of(_editors)
    against: str = _one_of(_editors)
    measure: str = _one_of(MEASURES)

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the paired difference."""
        return _difference(evidence, lm, self.editor, self.against, self.measure)


@dataclass(frozen=True, kw_only=True)
class Ablation(_OfLM):
    """A measure of MALMEN minus that of a variant, on the same facts, at their largest count."""

    unit: ClassVar[Literal["points"]] = "points"
    variant: str = _one_of(name for name in VARIANTS if name != FULL)
    measure: str = _one_of(MEASURES)

    def lms(self, evidence: Evidence) -> Sequence[str]:
        """Return the LMs that were used for the ablation."""
        return evidence.ablated

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the paired difference."""
        return _difference(evidence, lm, VARIANTS[FULL], self.variant, self.measure)


def _difference(evidence: Evidence, lm: str, editor: str, against: str, measure: str) -> Found:
    frames = [evidence.frame(lm, name) for name in (editor, against)]
    shared = set.intersection(*(set(frame["edits"]) for frame in frames))
    if not shared:
        raise NotTestableError(f"{editor} and {against} were evaluated at no common count")
    edits = max(shared)
    one, other = (frame[frame["edits"] == edits] for frame in frames)
    return Found(
        interval=_scaled(paired_difference(one, other, measure)),
        where=f"at {edits:,} edits",
        files=[evidence.files[lm, name] for name in (editor, against)],
    )


def _scaled(interval: Interval) -> Interval:
    return Interval(*(100 * end for end in interval))


@dataclass(frozen=True, kw_only=True)
class Change(_OfLM):
    """A measure of an editor at its largest count minus that at a smaller one.

    `since` is the smallest count, or the largest that the editor was trained at.
    """

    unit: ClassVar[Literal["points"]] = "points"
    editor: str = _one_of(_editors)
    measure: str = _one_of(MEASURES)
    since: str = _one_of(("smallest", "trained"))

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the difference; edit sets of different counts are resampled independently."""
        frame = evidence.frame(lm, self.editor)
        first, last = self._first(evidence, frame, lm), int(frame["edits"].max())
        if first >= last:
            raise NotTestableError(f"{self.editor} was evaluated at no more than {first:,} edits")
        before, after = (
            level(frame[frame["edits"] == edits], self.measure, seed=seed)
            for seed, edits in enumerate((first, last))
        )
        return Found(
            interval=_scaled((after - before).interval),
            where=f"from {first:,} to {last:,} edits",
            files=[evidence.files[lm, self.editor]],
        )

    def _first(self, evidence: Evidence, frame: pd.DataFrame, lm: str) -> int:
        if self.since == "smallest":
            return int(frame["edits"].min())
        trained_at = evidence.trained_at.get((lm, self.editor))
        if trained_at is None:
            raise NotTestableError(f"no record of the training of {self.editor}")
        evaluated = frame["edits"][frame["edits"] <= trained_at]
        if evaluated.empty:
            raise NotTestableError(f"{self.editor} was evaluated at no count it was trained at")
        return int(evaluated.max())


@dataclass(frozen=True, kw_only=True)
class Capacity(_OfLM):
    """How many times more facts an editor edits than another at equal quality.

    The quality is the editor's at the largest count that both were evaluated at; the other keeps
    it up to the last count before it first falls short.
    """

    unit: ClassVar[Literal["ratio"]] = "ratio"
    editor: str = _one_of(_editors)
    against: str = _one_of(_editors)
    measure: str = _one_of(MEASURES)

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the ratio; only "at least" if the other falls short at every count."""
        editor, against = (evidence.frame(lm, name) for name in (self.editor, self.against))
        counts = sorted(set(editor["edits"]) & set(against["edits"]))
        if not counts:
            raise NotTestableError(
                f"{self.editor} and {self.against} were evaluated at no common count"
            )
        quality = self._levels(editor, counts[-1:], seed=0)
        reached = self._levels(against, counts, seed=1) >= quality
        kept = np.array([0, *counts])[np.cumprod(reached, axis=1).sum(axis=1)]
        # Who falls short at the smallest count keeps the quality at fewer edits than that.
        ratios = counts[-1] / np.maximum(kept, counts[0])
        up_to = f"up to {kept[0]:,}" if kept[0] else f"not even at {counts[0]:,}"
        return Found(
            interval=percentile_interval(float(ratios[0]), ratios[1:]),
            where=f"{self.editor} has {100 * quality[0, 0]:.1f} at {counts[-1]:,} edits, "
            f"{self.against} {up_to}",
            files=[evidence.files[lm, name] for name in (self.editor, self.against)],
            at_least=not kept[0],
        )

    def _levels(self, frame: pd.DataFrame, counts: Sequence[int], *, seed: int) -> np.ndarray:
        """Return the levels at some counts, a column each; first the estimates, then resamples."""
        levels = [
            level(frame[frame["edits"] == edits], self.measure, seed=2 * index + seed)
            for index, edits in enumerate(counts)
        ]
        return np.stack([np.append(one.value, one.samples) for one in levels], axis=1)


@dataclass(frozen=True, kw_only=True)
class Time(_OfLM):
    """The seconds of one editor relative to another's, training included."""

    unit: ClassVar[Literal["ratio"]] = "ratio"
    editor: str = _one_of(_editors)
    against: str = _one_of(_editors)

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the ratio, which has no interval."""
        for name in (self.editor, self.against):
            evidence.frame(lm, name)
        records: list[Any] = evidence.costs.to_dict("records")
        rows = {record["editor"]: record for record in records if record["lm"] == lm}
        for name in (self.editor, self.against):
            if any(math.isnan(rows[name][stage]) for stage in stages_of(name)):
                raise NotTestableError(f"no record of what {name} took before editing")
        one, other = (rows[name]["total_seconds"] for name in (self.editor, self.against))
        return Found(
            interval=Interval(one / other, _NAN, _NAN),
            where=f"{one:,.0f} s against {other:,.0f} s, {rows[self.editor]['edits']:,} edits",
            files=[evidence.files[lm, name] for name in (self.editor, self.against)],
        )


@dataclass(frozen=True, kw_only=True)
class Growth(_OfRun):
    """The factor by which the last doubling of the edits multiplies a procedure's peak memory."""

    unit: ClassVar[Literal["ratio"]] = "ratio"
    procedure: str = _one_of(_PROCEDURES)

    def find(self, evidence: Evidence, lm: str = "") -> Found:
        """Return the factor, which has no interval."""
        peaks = _memory(evidence, self.procedure)["peak_mb"]
        last = int(peaks.index[-1])
        smaller = peaks[peaks.index <= last / 2]
        if smaller.empty:
            raise NotTestableError(f"no memory was measured at {last // 2:,} edits or fewer")
        doublings = np.log2(last / smaller.index[-1])
        factor = (peaks.iloc[-1] / smaller.iloc[-1]) ** (1 / doublings)
        return Found(
            interval=Interval(float(factor), _NAN, _NAN),
            where=", ".join(
                f"{peak:,.0f} MB at {edits:,} edits"
                for edits, peak in (
                    *peaks.iloc[:1].items(),
                    *smaller.iloc[-1:].items(),
                    (last, peaks[last]),
                )
            ),
            files=[_memory_file(evidence)],
        )


@dataclass(frozen=True, kw_only=True)
class Fit(_OfRun):
    """The largest count at which a procedure fits into memory, relative to another's."""

    unit: ClassVar[Literal["ratio"]] = "ratio"
    procedure: str = _one_of(_PROCEDURES)
    against: str = _one_of(_PROCEDURES)

    def find(self, evidence: Evidence, lm: str = "") -> Found:
        """Return the ratio, which has no interval; only "at least" if the first always fits."""
        frames = [_memory(evidence, name) for name in (self.procedure, self.against)]
        if frames[1]["fits"].all():
            counts = frames[1].index
            raise NotTestableError(f"{self.against} fits at up to {counts[-1]:,} edits, the most")
        one, other = (int(frame.index[frame["fits"]].max()) for frame in frames)
        return Found(
            interval=Interval(one / other, _NAN, _NAN),
            where=f"{one:,} edits against {other:,}, in {frames[0]['limit_mb'].iloc[0]:,.0f} MB",
            files=[_memory_file(evidence)],
            at_least=bool(frames[0]["fits"].all()),
        )


def _memory(evidence: Evidence, procedure: str) -> pd.DataFrame:
    frame = memory_results.read(_memory_file(evidence))
    frame = frame[frame["procedure"] == _PROCEDURES[procedure]]
    if frame.empty:
        raise NotTestableError(f"the memory of {procedure} was not measured")
    return frame.sort_values("edits").set_index("edits")


def _memory_file(evidence: Evidence) -> Path:
    if evidence.memory is None:
        raise NotTestableError("memory was not measured")
    return evidence.memory


KINDS: Mapping[str, type[Any]] = {
    "difference": Difference,
    "ablation": Ablation,
    "change": Change,
    "capacity": Capacity,
    "time": Time,
    "growth": Growth,
    "fit": Fit,
}
"""The predicates by their name in `workflow/claims.yaml`."""
