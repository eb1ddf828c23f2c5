"""Timing of several ways to do the same work, by turns: a busy machine slows all of them alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from malmen.support.progress import Progress

__all__ = ["Comparison", "Runs", "Task", "at_once", "take_turns"]

Task = Callable[[], Callable[[], Any]]
"""Makes everything ready, which is not timed, and returns the work, which is."""


@dataclass(frozen=True)
class Runs:
    """How long each run of a task took, and what the first one returned.

    Attributes:
        seconds: in the order of turns.
        result: of the first run.
    """

    seconds: list[float]
    result: Any


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ours and the plain way, timed by turns.

    Attributes:
        work: what was done.
        ours: seconds of every turn.
        plain: seconds of every turn.
        target: smallest ratio that is aimed at.
        difference: how far the results differ; `work` says in what.
    """

    work: str
    ours: list[float]
    plain: list[float]
    target: float
    difference: float

    @property
    def ratio(self) -> float:
        """How many times faster ours is: the ratio of the medians."""
        return median(self.plain) / median(self.ours)

    def row(self) -> dict[str, Any]:
        """Return the row of the summary; its spread is from the smallest to the largest."""
        ratios = [plain / ours for plain, ours in zip(self.plain, self.ours, strict=True)]
        return {
            "work": self.work,
            "ours_s": median(self.ours),
            "plain_s": median(self.plain),
            "ratio": self.ratio,
            "target": f">= {self.target:g}",
            "met": self.ratio >= self.target,
            "turns": len(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
            "ours_low_s": min(self.ours),
            "ours_high_s": max(self.ours),
            "plain_low_s": min(self.plain),
            "plain_high_s": max(self.plain),
            "difference": self.difference,
        }


def at_once(work: Callable[[], Any]) -> Task:
    """Return the task of work that needs nothing made ready."""
    return lambda: work


def take_turns(
    stage: str, tasks: Mapping[str, Task], *, turns: int, progress: bool = True
) -> dict[str, Runs]:
    """Run all tasks in every turn.

    Args:
        stage: what is timed, for the progress.
        tasks: by name.
        turns: how often each task runs.
        progress: show progress.

    Returns:
        The runs of every task.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    results: dict[str, Any] = {}
    with Progress(stage, total=turns * len(tasks), unit="runs", show=progress) as bar:
        for _ in range(turns):
            for name, task in tasks.items():
                taken, result = _timed(task())
                seconds[name].append(taken)
                results.setdefault(name, result)
                bar.update(1, **{name: f"{taken:.2f} s"})
    return {name: Runs(seconds[name], results[name]) for name in tasks}


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    _wait_for_device()
    started = time.perf_counter()
    result = work()
    _wait_for_device()
    return time.perf_counter() - started, result


def _wait_for_device() -> None:
    """A GPU is handed its work and finishes it later."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
