"""Meta-training of an editor: the loop round the meta-gradient, its end, and its resumption."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import Any, Literal

import torch
from torch import Tensor

from malmen.editor import HyperNetworkEditor
from malmen.evaluation import edit_and_score
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.lm.predictions import Predictions, predict
from malmen.meta_gradient import MetaLoss, meta_gradient
from malmen.normal_equation import NormalEquationError
from malmen.settings import TrainingSettings
from malmen.support.errors import InputError
from malmen.support.files import read_safetensors, write_safetensors
from malmen.support.progress import Progress

__all__ = ["Ending", "MetaTraining", "NonFiniteError", "is_out_of_patience"]

SCORED = ("es", "gs", "ls_consistency")
"""The measures whose harmonic mean is the validation score."""


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is not finite; the message names the cause."""


@dataclass(frozen=True)
class Ending:
    """How a meta-training ended, and which of its editors is the result.

    Attributes:
        ended_by: the validation score no longer improved, or all steps were taken.
        steps: steps taken.
        best_step: the step after which the editor scored best; 0 is the one it started from.
        best_score: that validation score; None without validation facts.
    """

    ended_by: Literal["patience", "budget"]
    steps: int
    best_step: int
    best_score: float | None


def is_out_of_patience(scores: Sequence[float], *, patience: int, margin: float) -> bool:
    """Tell whether none of the last ``patience`` scores beats all before them by the margin."""
    before, last = scores[:-patience], scores[-patience:]
    return bool(before) and max(last) <= max(before) + margin


class MetaTraining:
    """One meta-training run; after a kill it continues from its checkpoint to the same bits.

    With patience it ends when the score on validation facts has not improved for a while, at the
    latest with its budget of steps, and leaves the editor that scored best. Without, it takes all
    steps and leaves the last editor.

    Which facts a step sees follows from the seed and the step alone, and the checkpoint holds
    everything else that changes: the editor, Adam's moments and the log. The best editor so far
    has a file of its own beside it, named by its step.

    Args:
        editor: MALMEN or MEND; trained in place.
        lm: the language model, unedited.
        facts: meta-training facts.
        validation: facts for the periodic evaluation, edited in as many disjoint sets as there
            are; without any, there is no patience.
        edits: facts edited at once in every step.
        steps: largest number of steps.
        settings: hyper-parameters.
        seed: of the order of facts.
        checkpoint: file of the checkpoint; its name should identify the run's inputs.

    Raises:
        InputError: there are fewer facts than edits.
    """

    def __init__(
        self,
        editor: HyperNetworkEditor,
        lm: LanguageModel,
        facts: Sequence[EncodedFact],
        validation: Sequence[EncodedFact],
        *,
        edits: int,
        steps: int,
        settings: TrainingSettings,
        seed: int,
        checkpoint: Path,
    ) -> None:
        if not 0 < edits <= len(facts):
            raise InputError(
                f"{edits} edits a step, and there are {len(facts)} meta-training facts: lower the "
                "edits or supply more rows"
            )
        self.editor, self.lm, self.facts, self.validation = editor, lm, facts, validation
        self.edits, self.steps, self.settings, self.seed = edits, steps, settings, seed
        self.checkpoint = checkpoint
        parameters = editor.parameters()
        self.optimizer = torch.optim.Adam(parameters, lr=settings.meta_learning_rate, fused=True)
        self.log: list[dict[str, Any]] = []
        self.continues = False  # from an editor that is trained already

    def run(self, *, progress: bool = True) -> list[dict[str, Any]]:
        """Train from the checkpoint, or from the start, to the end; the best editor stays.

        Returns:
            The log: one entry a step, and one before the first if an editor is trained further.

        Raises:
            NonFiniteError: a loss or gradient is not finite; the checkpoint of the step before
                stays.
        """
        self._resume()
        if self.continues and self._is_patient and not self.log:
            self._note({"step": 0, "edits": self.edits, **self._validate()})
        name = f"{type(self.editor).__name__} on {self.lm.entry.title}, {self.edits} edits"
        done = self._taken
        with Progress(name, total=self.steps, unit="steps", done=done, show=progress) as bar:
            while self._ended_by is None:
                try:
                    self._note(self._step(self._taken))
                except NormalEquationError as error:
                    raise NonFiniteError(
                        f"step {self._taken + 1} with {self.edits} edits: {error}; {self._remedy()}"
                    ) from error
                bar.update(1, **_headline(self.log))
        if self.ending.best_step != self._taken:
            self._load(read_safetensors(self._best_file(self.ending.best_step))[0])
        return self.log

    @property
    def ending(self) -> Ending:
        """How a run that is over has ended."""
        assert self._ended_by is not None
        best = self._best_step
        return Ending(self._ended_by, self._taken, best, self._scores.get(best))

    def continue_from(self, moments: Path) -> None:
        """Take over Adam's moments from the run that made the editor to start from.

        With moments of zero, Adam's first steps have their full length in every parameter. At the
        few steps that large numbers of edits get, that undoes what was learned at fewer.

        Raises:
            InputError: the file is missing, or its moments are of another editor.
        """
        tensors, _ = read_safetensors(moments)
        shapes = {str(i): parameter.shape for i, parameter in enumerate(self.editor.parameters())}
        means = {name.partition(".")[0]: v for name, v in tensors.items() if "exp_avg" in name}
        if not means or any(shapes.get(index) != mean.shape for index, mean in means.items()):
            raise InputError(f"{moments}: not Adam's moments of this editor; use those beside it")
        _set_moments(self.optimizer, tensors)
        self.continues = True

    def save_moments(self, path: Path) -> None:
        """Write Adam's moments, for a run that continues from the editor."""
        write_safetensors(path, _moments(self.optimizer), {})

    def forget(self) -> None:
        """Remove the checkpoint and the best editor, once the result is safe elsewhere."""
        self.checkpoint.unlink(missing_ok=True)
        self._forget_best(but=None)

    def step_facts(self, step: int) -> list[EncodedFact]:
        """Return the facts of a step: consecutive ones of the epoch's permutation."""
        steps_per_epoch = len(self.facts) // self.edits
        epoch, index = divmod(step, steps_per_epoch)
        order = list(range(len(self.facts)))
        random.Random(f"{self.seed} {self.edits} {epoch}").shuffle(order)
        return [self.facts[i] for i in order[index * self.edits : (index + 1) * self.edits]]

    def _step(self, step: int) -> dict[str, Any]:
        started = time.perf_counter()
        facts = self.step_facts(step)
        record = self.editor.record(self.lm, facts)
        self.editor.observe(record)
        self.optimizer.zero_grad()
        loss = meta_gradient(self.editor, self.lm, record, facts, loc_coef=self.settings.loc_coef)
        norm = self._clip(step, loss)
        self.optimizer.step()
        entry = {
            "step": step + 1,
            "edits": self.edits,
            "generalisation_loss": loss.generalisation,
            "locality_loss": loss.locality,
            "gradient_norm": norm,
            "learning_rate": self.editor.learning_rates.mean().item(),
        }
        if (step + 1) % self.settings.evaluate_every == 0 or step + 1 == self.steps:
            entry |= self._validate()
        return entry | {"seconds": time.perf_counter() - started}

    def _clip(self, step: int, loss: MetaLoss) -> float:
        """Clip the meta-gradient; refuse to take a step that would ruin every parameter."""
        parameters = dict(self.editor.named_parameters())
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        norm = torch.nn.utils.get_total_norm(gradients.values())
        if not torch.isfinite(torch.tensor(loss.total)) or not torch.isfinite(norm):
            bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
            culprits = ", ".join(bad[:3]) or "the gradient's norm"
            raise NonFiniteError(
                f"step {step + 1} with {self.edits} edits: L_gen = {loss.generalisation:.4g}, "
                f"L_loc = {loss.locality:.4g}, not finite: {culprits}; {self._remedy()}"
            )
        torch.nn.utils.clip_grads_with_norm_(parameters.values(), self.settings.clip, norm)
        return norm.item()

    def _remedy(self) -> str:
        largest = self.editor.learning_rates.max().item()
        return f"η = {largest:.3g} at most. Lower learning_rate or meta_learning_rate"

    def _validate(self) -> dict[str, float]:
        """Return the means over the validation facts, and the score made of them."""
        if not self.validation:
            return {}
        count, size = min(self.edits, len(self.validation)), self.editor.settings.fact_batch
        measured: dict[str, list[float]] = {}
        for start in range(0, len(self.validation) - count + 1, count):
            facts = self.validation[start : start + count]
            scores = edit_and_score(self.editor, self.lm, facts, size=size)
            unedited = self._unedited.of(range(start, start + count)).tokens
            for measure, accuracy in {
                "es": scores.edit.accuracy(),
                "gs": scores.equivalent.accuracy(),
                "ls": scores.unrelated.accuracy(),
                "ls_consistency": scores.unrelated.accuracy(unedited),
            }.items():
                measured.setdefault(f"validation_{measure}", []).append(accuracy.mean().item())
        means = {name: fmean(values) for name, values in measured.items()}
        score = harmonic_mean([means[f"validation_{measure}"] for measure in SCORED])
        return means | {"validation_score": score}

    @cached_property
    def _unedited(self) -> Predictions:
        """What the unedited language model predicts on the validation facts' unrelated tuples."""
        unrelated = [fact.unrelated for fact in self.validation]
        return predict(self.lm, unrelated, size=self.editor.settings.fact_batch)

    # --- the end, which follows from the log ---

    @property
    def _taken(self) -> int:
        return int(self.log[-1]["step"]) if self.log else 0

    @property
    def _scores(self) -> dict[int, float]:
        """The validation scores by step."""
        name = "validation_score"
        return {entry["step"]: entry[name] for entry in self.log if name in entry}

    @property
    def _best_step(self) -> int:
        scores = self._scores if self._is_patient else {}
        return max(scores, key=lambda step: scores[step]) if scores else self._taken

    @property
    def _is_patient(self) -> bool:
        return bool(self.settings.patience and self.validation)

    @property
    def _ended_by(self) -> Literal["patience", "budget"] | None:
        patience, margin = self.settings.patience, self.settings.margin
        scores = list(self._scores.values())
        if self._is_patient and is_out_of_patience(scores, patience=patience, margin=margin):
            return "patience"
        return "budget" if self._taken >= self.steps else None

    # --- files ---

    def _note(self, entry: dict[str, Any]) -> None:
        """Log a step; keep the editor if it is the best, and a checkpoint if one is due."""
        self.log.append(entry)
        step = entry["step"]
        is_best = self._is_patient and bool(self._scores) and self._best_step == step
        if is_best:
            write_safetensors(self._best_file(step), self._tensors(), {})
        # Also at every best step: the log of a checkpoint never names an editor that is not there.
        if is_best or step % self.settings.checkpoint_every == 0:
            write_safetensors(self.checkpoint, self._tensors(), self.log)
        if is_best:
            self._forget_best(but=step)

    def _best_file(self, step: int) -> Path:
        return self.checkpoint.with_name(f"{self.checkpoint.stem}.best-{step}.safetensors")

    def _forget_best(self, *, but: int | None) -> None:
        for path in self.checkpoint.parent.glob(f"{escape(self.checkpoint.stem)}.best-*"):
            if but is None or path != self._best_file(but):
                path.unlink()

    def _tensors(self) -> dict[str, Tensor]:
        state = {f"editor.{name}": tensor for name, tensor in self.editor.state_dict().items()}
        return state | {f"adam.{name}": value for name, value in _moments(self.optimizer).items()}

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self.editor.load_state_dict(_part("editor", tensors))
        _set_moments(self.optimizer, _part("adam", tensors))

    def _resume(self) -> None:
        if self.checkpoint.exists():
            tensors, self.log = read_safetensors(self.checkpoint)
            self._load(tensors)


def _part(owner: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an owner, by their names there."""
    start = f"{owner}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def _moments(optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Return an optimizer's state, named by the index of the parameter and the moment."""
    states = optimizer.state_dict()["state"].items()
    return {f"{index}.{name}": value for index, state in states for name, value in state.items()}


def _set_moments(optimizer: torch.optim.Adam, moments: Mapping[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, _, name = key.partition(".")
        states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def _headline(log: list[dict[str, Any]]) -> dict[str, float]:
    """Return what is shown beside the progress: the last losses and validation scores."""
    shown = {"L_gen": log[-1]["generalisation_loss"], "L_loc": log[-1]["locality_loss"]}
    for entry in reversed(log):
        if "validation_score" in entry:
            names = {"ES": "es", "GS": "gs", "LS-cons.": "ls_consistency", "score": "score"}
            return shown | {title: entry[f"validation_{name}"] for title, name in names.items()}
    return shown
