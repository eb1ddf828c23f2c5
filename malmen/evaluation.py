"""Scores of an edited language model, fact by fact.

Metrics are those of the paper: edit success (ES), generalisation success (GS) and locality success
(LS) are token-wise teacher-forced arg-max accuracies on edit, equivalent and unrelated tuples.
Beside them stand exact match (every token right), LS-consistency, the agreement with what the
unedited model predicts on the unrelated tuple, and portability, the accuracy on what follows from a
fact. What the model writes by itself is scored by :mod:`malmen.interview`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
from torch import Tensor, nn

from malmen.data.rows import FeverRow, ZsreRow, overwritten
from malmen.editor import Demanding, Editor, Remembering, Shifts
from malmen.interview import Interview
from malmen.interview import scores as generated_scores
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.lm.predictions import Predictions, predict
from malmen.results.metrics import METRICS
from malmen.support.errors import InputError
from malmen.support.progress import Progress

__all__ = [
    "Evaluation",
    "Scores",
    "check_pool",
    "edit_and_score",
    "evaluate",
    "finite_shifts",
    "score_facts",
]


@dataclass(frozen=True)
class Scores:
    """Predictions on the tuples of every fact."""

    edit: Predictions
    equivalent: Predictions
    unrelated: Predictions
    portability: Predictions | None = None

    def of(self, facts: range) -> "Scores":
        """Return those of consecutive facts, which are counted from zero again."""
        return Scores(*(predictions.of(facts) for predictions in self._by_measure().values()))

    def columns(self, before: "Scores") -> dict[str, Tensor]:
        """Return the per-fact columns of `malmen.results.per_fact`, given the unedited scores."""
        columns: dict[str, Tensor] = {}
        for prefix, scores in (("", self), ("pre_", before)):
            for metric, predictions in scores._by_measure().items():
                accuracy = predictions.accuracy()
                columns[f"{prefix}{metric}"] = accuracy
                if f"{metric}_exact" in METRICS:
                    columns[f"{prefix}{metric}_exact"] = accuracy == 1
        columns["ls_consistency"] = self.unrelated.accuracy(before.unrelated.tokens)
        return columns

    def _by_measure(self) -> dict[str, Predictions]:
        three = {"es": self.edit, "gs": self.equivalent, "ls": self.unrelated}
        return three if self.portability is None else three | {"ps": self.portability}


def score_facts(
    lm: LanguageModel,
    facts: Sequence[EncodedFact],
    *,
    size: int,
    weights: Mapping[str, nn.Parameter] | None = None,
) -> Scores:
    """Score the tuples of every fact, with edited ``weights`` if given."""
    kinds = list(zip(*(fact.tuples for fact in facts), strict=True))
    if weights is None:  # answers are stored of some kinds, and serve a batch that has no others
        return Scores(*(predict(lm, examples, size=size) for examples in kinds))
    # Together, more sequences of like length share a batch: there is less padding.
    together = [example for examples in kinds for example in examples]
    every, n = predict(lm, together, size=size, weights=weights), len(facts)
    return Scores(*(every.of(range(k * n, (k + 1) * n)) for k in range(len(kinds))))


def edit_and_score(
    editor: Editor, lm: LanguageModel, facts: Sequence[EncodedFact], *, size: int
) -> Scores:
    """Edit all ``facts`` in at once and score them."""
    shifts = finite_shifts(editor, lm, facts)
    return score_facts(lm, facts, size=size, weights=lm.edited_weights(shifts))


def finite_shifts(editor: Editor, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
    """Return an editor's shifts.

    Raises:
        ArithmeticError: one of them is not finite; an LM with it would answer nothing.
    """
    shifts = editor.edit(lm, facts)
    for layer, shift in shifts.items():
        if not shift.isfinite().all():
            raise ArithmeticError(
                f"{type(editor).__name__}: the shift of {layer} is not finite after {len(facts)} "
                "edits: lower the editor's learning rate"
            )
    return shifts


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` returns.

    Attributes:
        scores: the columns ``edits``, ``edit_set``, ``fact`` and all metrics; one row a fact.
        editing: for every edit set its ``edits``, ``edit_set``, the ``seconds`` that the editor
            took to turn the facts into shifts, and how many facts are ``overwritten``: their
            unrelated prompt is edited in the same set to another answer, so that LS cannot hold.
        exchanges: what was written by itself, with the ``edits`` and the ``edit_set`` of each.
    """

    scores: pd.DataFrame
    editing: list[dict[str, float]]
    exchanges: list[dict[str, Any]] = field(default_factory=list)


def evaluate(
    editors: Mapping[int, Editor],
    lm: LanguageModel,
    facts: Sequence[EncodedFact],
    *,
    counts: Sequence[int],
    sets: int,
    size: int,
    interview: Interview | None = None,
    progress: bool = True,
) -> Evaluation:
    """Edit ``sets`` disjoint sets of facts at every count and score every fact.

    Args:
        editors: the editor for every count.
        lm: the language model, unedited.
        facts: the pool; edit set k of count m is facts[k·m : (k + 1)·m].
        counts: numbers of edits.
        sets: edit sets a count.
        size: facts a batch.
        interview: asks about edited facts, if answers that are written freely are to be scored too.
        progress: show progress.

    Returns:
        The scores of every fact, and how long editing took.

    Raises:
        InputError: a count asks for more facts than there are, or a fact cannot be edited.
    """
    check_pool(counts, sets=sets, pool=len(facts))
    frames, editing, exchanges = [], [], []
    pool = facts[: max(counts) * sets]
    for editor in editors.values():
        if isinstance(editor, Demanding):
            editor.check(lm, pool)
    title = lm.entry.title
    with Progress(f"{title} before editing", total=len(pool), unit="facts", show=progress) as bar:
        before = score_facts(lm, pool, size=size)
        bar.update(len(pool))
    stage = f"{title} edited by {type(editors[counts[0]]).__name__}"
    with Progress(stage, total=sum(counts) * sets, unit="facts", show=progress) as bar:
        for count in counts:
            for edit_set in range(sets):
                chosen = range(edit_set * count, (edit_set + 1) * count)
                started = time.perf_counter()
                shifts = finite_shifts(editors[count], lm, [pool[i] for i in chosen])
                seconds = time.perf_counter() - started + _remembered_seconds(editors[count])
                lost = _overwritten([pool[i] for i in chosen])
                editing.append(
                    {
                        "edits": count,
                        "edit_set": edit_set,
                        "seconds": seconds,
                        "overwritten": lost,
                    }
                )
                weights = lm.edited_weights(shifts)
                after = score_facts(lm, [pool[i] for i in chosen], size=size, weights=weights)
                columns = after.columns(before.of(chosen))
                frame = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
                frame = frame.assign(edits=count, edit_set=edit_set, fact=list(chosen))
                if interview is not None:
                    written = interview.ask({i: pool[i] for i in chosen}, weights)
                    frame = frame.join(generated_scores(written), on="fact")
                    about = {"edits": count, "edit_set": edit_set}
                    exchanges += [about | asdict(exchange) for exchange in written]
                frames.append(frame)
                means = {m.upper(): float(frame[m].mean()) for m in ("es", "gs", "ls")}
                bar.update(count, edits=count, **means)
    return Evaluation(pd.concat(frames, ignore_index=True), editing, exchanges)


def _overwritten(facts: Sequence[EncodedFact]) -> int:
    rows = [fact.row for fact in facts]
    questions = overwritten(row for row in rows if isinstance(row, ZsreRow))
    return len(questions) + len(overwritten(row for row in rows if isinstance(row, FeverRow)))


def _remembered_seconds(editor: Editor) -> float:
    # What an editor remembers from an earlier set would cost time if edited alone.
    return editor.remembered_seconds if isinstance(editor, Remembering) else 0.0


def check_pool(counts: Sequence[int], *, sets: int, pool: int) -> None:
    """Refuse counts that need more facts than there are.

    Raises:
        InputError: naming the count, the need and the pool.
    """
    for count in counts:
        if not 0 < count * sets <= pool:
            raise InputError(
                f"{count} edits in {sets} disjoint sets need {count * sets} facts, and the pool "
                f"has {pool}: lower the count or the sets, or supply more rows"
            )
