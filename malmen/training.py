"""Meta-training of an editor: the loop round the meta-gradient, checkpoints and resumption."""

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from malmen.editor import HyperNetworkEditor
from malmen.evaluation import edit_and_score
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.meta_gradient import MetaLoss, meta_gradient
from malmen.normal_equation import NormalEquationError
from malmen.settings import TrainingSettings
from malmen.support.errors import InputError
from malmen.support.files import read_safetensors, write_safetensors
from malmen.support.progress import Progress

__all__ = ["MetaTraining", "NonFiniteError"]


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is not finite; the message names the cause."""


class MetaTraining:
    """One meta-training run; after a kill it continues from its checkpoint to the same bits.

    Which facts a step sees follows from the seed and the step alone, and the checkpoint holds
    everything else that changes: the editor, Adam's moments and the log.

    Args:
        editor: MALMEN or MEND; trained in place.
        lm: the language model, unedited.
        facts: meta-training facts.
        validation: facts for the periodic evaluation.
        edits: facts edited at once in every step.
        steps: number of steps.
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

    def run(self, *, progress: bool = True) -> list[dict[str, Any]]:
        """Train from the checkpoint, or from the start, to the last step.

        Returns:
            The log, one entry a step.

        Raises:
            NonFiniteError: a loss or gradient is not finite; the checkpoint of the step before
                stays.
        """
        self._resume()
        name = f"{type(self.editor).__name__} on {self.lm.entry.title}, {self.edits} edits"
        done = len(self.log)
        with Progress(name, total=self.steps, unit="steps", done=done, show=progress) as bar:
            for step in range(done, self.steps):
                try:
                    self.log.append(self._step(step))
                except NormalEquationError as error:
                    raise NonFiniteError(
                        f"step {step + 1} with {self.edits} edits: {error}; {self._remedy()}"
                    ) from error
                if (step + 1) % self.settings.checkpoint_every == 0:
                    self._save()
                bar.update(1, **_headline(self.log))
        return self.log

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

    def save_moments(self, path: Path) -> None:
        """Write Adam's moments, for a run that continues from the editor."""
        write_safetensors(path, _moments(self.optimizer), {})

    def forget(self) -> None:
        """Remove the checkpoint, once the result is safe elsewhere."""
        self.checkpoint.unlink(missing_ok=True)

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
            "seconds": time.perf_counter() - started,
        }
        if (step + 1) % self.settings.evaluate_every == 0 or step + 1 == self.steps:
            entry |= self._validate()
        return entry

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
        if not self.validation:
            return {}
        facts = self.validation[: self.edits]
        size = self.editor.settings.fact_batch
        scores = edit_and_score(self.editor, self.lm, facts, size=size)
        parts = {"es": scores.edit, "gs": scores.equivalent, "ls": scores.unrelated}
        return {f"validation_{k}": p.accuracy().mean().item() for k, p in parts.items()}

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {
            f"editor.{name}": tensor for name, tensor in self.editor.state_dict().items()
        }
        tensors |= {f"adam.{name}": value for name, value in _moments(self.optimizer).items()}
        write_safetensors(self.checkpoint, tensors, self.log)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        tensors, self.log = read_safetensors(self.checkpoint)
        self.editor.load_state_dict(_part("editor", tensors))
        _set_moments(self.optimizer, _part("adam", tensors))


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
        if "validation_es" in entry:
            shown |= {m.upper(): entry[f"validation_{m}"] for m in ("es", "gs", "ls")}
            break
    return shown
