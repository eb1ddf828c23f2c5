"""What a claim can measure in results, and the results it is measured in.

Every predicate is a class whose fields stand in `workflow/claims.yaml` under `test`; the field
`kind` there is its name in `KINDS`.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd

from malmen.experiment.cards import printed_name, titles
from malmen.lm.catalogue import lookup
from malmen.reporting.sources import Findings
from malmen.results import memory as memory_results
from malmen.results.bootstrap import Interval, percentile_interval
from malmen.results.comparison import MEASURES, level, paired_difference
from malmen.results.per_fact import endings, read
from malmen.support.files import read_json
from malmen.tables.costs import costs, stages_of
from malmen.tables.score_tables import FULL, VARIANTS, read_variants, variant_title

__all__ = ["KINDS", "Evidence", "Found", "NotTestableError", "Predicate"]

_PROCEDURES = {
    "training": memory_results.TRAINING,
    "editing": memory_results.EDITING,
    "training_on_disk": memory_results.SPILLED,
    "one_graph": memory_results.PLAIN,
}


class NotTestableError(Exception):
    """Say why results cannot test a claim; never leaves `malmen.reporting.claims`."""


class _Results(NamedTuple):
    """The per-fact results of an editor, or of a variant of MALMEN, on an LM, and their file."""

    file: Path
    facts: pd.DataFrame

    @property
    def counts(self) -> set[int]:
        return set(self.facts["edits"])

    def at(self, edits: int) -> pd.DataFrame:
        return self.facts[self.facts["edits"] == edits]


@dataclass(frozen=True, kw_only=True)
class Evidence(Findings):
    """The results of a run, read when they are first asked for."""

    @property
    def lms(self) -> list[str]:
        """The LMs that editors were evaluated on."""
        return list(dict.fromkeys(lm for lm, _ in self._evaluated))

    @property
    def ablated(self) -> list[str]:
        """The LMs that variants of MALMEN were evaluated on."""
        return list(dict.fromkeys(lm for lm, _ in self._ablated))

    def of(self, lm: str, editor: str) -> _Results:
        """Return the results of an editor, or of a variant of MALMEN, on an LM.

        Raises:
            NotTestableError: There are none.
        """
        found = self._evaluated | self._ablated
        if (lm, editor) not in found:
            raise NotTestableError(f"no results of {variant_title(editor)} on {lookup(lm).title}")
        return found[lm, editor]

    def of_both(self, lm: str, editor: str, against: str) -> tuple[_Results, _Results, list[int]]:
        """Return the results of two editors on an LM, and the numbers of edits of both.

        Raises:
            NotTestableError: One has no results, or they share no number of edits.
        """
        one, other = self.of(lm, editor), self.of(lm, against)
        if not (counts := sorted(one.counts & other.counts)):
            raise NotTestableError(f"{editor} and {against} were evaluated at no common count")
        return one, other, counts

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What each editor took."""
        return costs(self.evaluations, trained=self.trained, statistics=self.statistics)

    @cached_property
    def endings(self) -> dict[tuple[str, str, int], str]:
        """What ended the training behind results, by LM, editor and number of edits."""
        return endings(self.evaluations)

    def unfinished(self, lm: str, editors: Iterable[str], edits: int) -> str:
        """Say which of these editors' trainings ended by budget; nothing if none did."""
        spent = [one for one in editors if "budget" in self.endings.get((lm, one, edits), "")]
        return f" (training ended by budget: {', '.join(spent)})" if spent else ""

    @cached_property
    def trained_at(self) -> dict[tuple[str, str], int]:
        """The largest number of edits that each editor was trained at on each LM."""
        largest: dict[tuple[str, str], int] = {}
        for settings in (read_json(path)["settings"] for path in self.trained):
            key = settings["lm"], printed_name(settings["editor"])
            largest[key] = max(settings["edits"], largest.get(key, 0))
        return largest

    def memory_of(self, procedure: str) -> tuple[Path, pd.DataFrame]:
        """Return the file of measurements and those of a procedure, by number of edits.

        Raises:
            NotTestableError: There are none.
        """
        if self.memory is None:
            raise NotTestableError("memory was not measured")
        frame = memory_results.read(self.memory)
        frame = frame[frame["procedure"] == _PROCEDURES[procedure]]
        if frame.empty:
            raise NotTestableError(f"the memory of {procedure} was not measured")
        return self.memory, frame.sort_values("edits").set_index("edits")

    @cached_property
    def _evaluated(self) -> dict[tuple[str, str], _Results]:
        return _by_editor((path, read(path)[0]) for path in self.evaluations)

    @cached_property
    def _ablated(self) -> dict[tuple[str, str], _Results]:
        # The full editor stands among the evaluations.
        variants = [path for path in self.ablations if Path(path).stem != FULL]
        return _by_editor((path, read_variants([path])[0]) for path in variants)


def _by_editor(files: Iterable[tuple[Path, pd.DataFrame]]) -> dict[tuple[str, str], _Results]:
    return {
        (str(lm), str(editor)): _Results(path, facts)
        for path, frame in files
        for (lm, editor), facts in frame.groupby(["lm", "editor"])
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


class Predicate:
    """What is measured of an LM or, where `of_lm` is false, of the run."""

    unit: ClassVar[Literal["points", "ratio"]] = "points"
    of_lm: ClassVar[bool] = True

    def lms(self, evidence: Evidence) -> Sequence[str]:
        """Return the LMs that there are results of."""
        return evidence.lms if self.of_lm else [""]

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Measure it, or raise `NotTestableError`."""
        raise NotImplementedError


def _one_of(names: Callable[[], Collection[str]]) -> Any:
    """Declare a field with choices, which are asked for when one is read: editors join a run."""
    return field(metadata={"choices": names})


def _points(interval: Interval) -> Interval:
    return Interval(*(100 * end for end in interval))


def _without_interval(value: float) -> Interval:
    return Interval(float(value), math.nan, math.nan)


@dataclass(frozen=True, kw_only=True)
class Difference(Predicate):
    """A measure of one editor minus that of another, on the same facts, at their largest count."""

    editor: str = _one_of(titles)
    against: str = _one_of(titles)
    measure: str = _one_of(lambda: MEASURES)

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the paired difference."""
        one, other, counts = evidence.of_both(lm, self.editor, self.against)
        difference = paired_difference(one.at(counts[-1]), other.at(counts[-1]), self.measure)
        return Found(
            interval=_points(difference),
            where=f"at {counts[-1]:,} edits"
            f"{evidence.unfinished(lm, (self.editor, self.against), counts[-1])}",
            files=[one.file, other.file],
        )


@dataclass(frozen=True, kw_only=True)
class Ablation(Predicate):
    """A measure of MALMEN minus that of a variant, on the same facts, at their largest count."""

    variant: str = _one_of(lambda: [name for name in VARIANTS if name != FULL])
    measure: str = _one_of(lambda: MEASURES)

    def lms(self, evidence: Evidence) -> Sequence[str]:
        """Return the LMs that were used for the ablation."""
        return evidence.ablated

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the paired difference."""
        pair = Difference(editor=VARIANTS[FULL], against=self.variant, measure=self.measure)
        return pair.find(evidence, lm)


@dataclass(frozen=True, kw_only=True)
class Change(Predicate):
    """A measure of an editor at its largest count minus that at a smaller one.

    `since` is the smallest count, or the largest that the editor was trained at.
    """

    editor: str = _one_of(titles)
    measure: str = _one_of(lambda: MEASURES)
    since: str = _one_of(lambda: ("smallest", "trained"))

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the difference; edit sets of different counts are resampled independently."""
        results = evidence.of(lm, self.editor)
        first, last = self._first(evidence, results.counts, lm), max(results.counts)
        if first >= last:
            raise NotTestableError(f"{self.editor} was evaluated at no more than {first:,} edits")
        before = level(results.at(first), self.measure, seed=0)
        after = level(results.at(last), self.measure, seed=1)
        return Found(
            interval=_points((after - before).interval),
            where=f"from {first:,} to {last:,} edits{evidence.unfinished(lm, [self.editor], last)}",
            files=[results.file],
        )

    def _first(self, evidence: Evidence, counts: set[int], lm: str) -> int:
        if self.since == "smallest":
            return min(counts)
        trained_at = evidence.trained_at.get((lm, self.editor))
        if trained_at is None:
            raise NotTestableError(f"no record of the training of {self.editor}")
        if trained_at < min(counts):
            raise NotTestableError(f"{self.editor} was evaluated at no count it was trained at")
        return max(count for count in counts if count <= trained_at)


@dataclass(frozen=True, kw_only=True)
class Capacity(Predicate):
    """How many times more facts an editor edits than another at equal quality.

    The quality is the editor's at the largest count that both were evaluated at; the other keeps
    it up to the last count before it first falls short.
    """

    unit = "ratio"
    editor: str = _one_of(titles)
    against: str = _one_of(titles)
    measure: str = _one_of(lambda: MEASURES)

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the ratio; only "at least" if the other falls short at every count."""
        one, other, counts = evidence.of_both(lm, self.editor, self.against)
        quality = self._levels(one, counts[-1:], seed=0)
        reached = self._levels(other, counts, seed=1) >= quality
        kept = np.array([0, *counts])[np.cumprod(reached, axis=1).sum(axis=1)]
        # Who falls short at the smallest count keeps the quality at fewer edits than that.
        ratios = counts[-1] / np.maximum(kept, counts[0])
        up_to = f"up to {kept[0]:,}" if kept[0] else f"not even at {counts[0]:,}"
        return Found(
            interval=percentile_interval(float(ratios[0]), ratios[1:]),
            where=f"{self.editor} has {100 * quality[0, 0]:.1f} at {counts[-1]:,} edits, "
            f"{self.against} {up_to}"
            f"{evidence.unfinished(lm, (self.editor, self.against), counts[-1])}",
            files=[one.file, other.file],
            at_least=not kept[0],
        )

    def _levels(self, results: _Results, counts: Sequence[int], *, seed: int) -> np.ndarray:
        """Return the levels at some counts, a column each; first the estimates, then resamples."""
        levels = [
            level(results.at(edits), self.measure, seed=2 * index + seed)
            for index, edits in enumerate(counts)
        ]
        return np.stack([np.append(one.value, one.samples) for one in levels], axis=1)


@dataclass(frozen=True, kw_only=True)
class Time(Predicate):
    """The seconds of one editor relative to another's, training included."""

    unit = "ratio"
    editor: str = _one_of(titles)
    against: str = _one_of(titles)

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the ratio, which has no interval."""
        names = (self.editor, self.against)
        files = [evidence.of(lm, name).file for name in names]
        took = evidence.costs[evidence.costs["lm"] == lm].set_index("editor")
        for name in names:
            if took.loc[name, stages_of(name)].isna().any():
                raise NotTestableError(f"no record of what {name} took before editing")
        one, other = took.loc[list(names), "total_seconds"]
        return Found(
            interval=_without_interval(one / other),
            where=f"{one:,.0f} s against {other:,.0f} s, {took['edits'].iloc[0]:,} edits",
            files=files,
        )


@dataclass(frozen=True, kw_only=True)
class Growth(Predicate):
    """The factor by which the last doubling of the edits multiplies a procedure's peak memory."""

    unit = "ratio"
    of_lm = False
    procedure: str = _one_of(lambda: _PROCEDURES)

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the factor, which has no interval."""
        file, measured = evidence.memory_of(self.procedure)
        peaks = measured["peak_mb"]
        last = int(peaks.index[-1])
        smaller = peaks[peaks.index <= last / 2]
        if smaller.empty:
            raise NotTestableError(f"no memory was measured at {last // 2:,} edits or fewer")
        doublings = np.log2(last / smaller.index[-1])
        shown = pd.concat([peaks.iloc[:1], smaller.iloc[-1:], peaks.iloc[-1:]])
        return Found(
            interval=_without_interval((peaks.iloc[-1] / smaller.iloc[-1]) ** (1 / doublings)),
            where=", ".join(f"{peak:,.0f} MB at {edits:,} edits" for edits, peak in shown.items()),
            files=[file],
        )


@dataclass(frozen=True, kw_only=True)
class Fit(Predicate):
    """The largest count at which a procedure fits into memory, relative to another's."""

    unit = "ratio"
    of_lm = False
    procedure: str = _one_of(lambda: _PROCEDURES)
    against: str = _one_of(lambda: _PROCEDURES)

    def find(self, evidence: Evidence, lm: str) -> Found:
        """Return the ratio, which has no interval; only "at least" if the first always fits."""
        file, measured = evidence.memory_of(self.procedure)
        _, against = evidence.memory_of(self.against)
        if against["fits"].all():
            most = against.index[-1]
            raise NotTestableError(f"{self.against} fits at up to {most:,} edits, the most")
        one, other = (frame.index[frame["fits"]].max() for frame in (measured, against))
        return Found(
            interval=_without_interval(one / other),
            where=f"{one:,} edits against {other:,}, in {measured['limit_mb'].iloc[0]:,.0f} MB",
            files=[file],
            at_least=bool(measured["fits"].all()),
        )


KINDS: Mapping[str, type[Predicate]] = {
    "difference": Difference,
    "ablation": Ablation,
    "change": Change,
    "capacity": Capacity,
    "time": Time,
    "growth": Growth,
    "fit": Fit,
}
"""The predicates by their name in `workflow/claims.yaml`."""
