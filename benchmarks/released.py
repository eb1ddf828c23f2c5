"""The procedure released with the paper, with the losses of ours: what ours is measured against.

It is written as the released code goes about it:

* logits of the whole vocabulary at every position, and the labels are given to the language model,
  which computes a loss that nobody reads;
* keys and value gradients go to disk, a file a batch and layer, and are read back twice a step;
* the hyper-network runs twice: without a graph for the shifts, with one for its gradient;
* UUᵀ + λI is built twice and factorised twice, by LU, in the precision of the keys;
* shifts are added to the weights and subtracted again, once for all equivalent tuples and once for
  every batch of unrelated ones, which run twice: before and after;
* the frozen lower layers run in every pass; gradients stop at the lowest edited layer.

It is not made slower than that. Batches hold sequences of like length, every step runs in the
same batches as ours, and files of a step overwrite those of the step before. Where released
code has a defect that changes numbers, it follows ours: losses are weighted answer by answer, so
that they do not depend on batches; running statistics are exact, and an evaluation leaves them;
gradients of recording are dropped before the next phase.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from malmen.batches import Batch, Batches, Example, make_batches
from malmen.encoding import EncodedFact
from malmen.malmen import MALMEN
from malmen.meta_gradient import MetaLoss

__all__ = ["Released"]

IGNORED = -100
"""Label of a position that is no answer, as transformers has it."""


class Released:
    """MALMEN as released, on a decoder of its own, whose weights it adds to and subtracts from.

    Args:
        model: the language model; nothing else may use its weights.
        layers: names of its edited layers.
        editor: the hyper-network, η and λ.
        folder: where keys and value gradients are kept within a step.
    """

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[str], editor: MALMEN, folder: Path
    ) -> None:
        self.model, self.editor, self.folder = model.eval().requires_grad_(False), editor, folder
        model.loss_type = "ForCausalLM"  # what it takes anyway, without saying so
        self.layers: dict[str, Any] = {name: model.get_submodule(name) for name in layers}
        for layer in self.layers.values():
            layer.weight.requires_grad_(True)

    def meta_gradient(self, facts: Sequence[EncodedFact], *, loc_coef: float = 1.0) -> MetaLoss:
        """Record the edit tuples and add the gradient of the meta loss to the editor's parameters.

        The running statistics move.

        Args:
            facts: edited all at once.
            loc_coef: weight of L_loc in L_meta.

        Returns:
            The losses.
        """
        files = self._record(facts, observe=True)
        shifts = self._shifts(files)
        generalisation = self._generalisation(facts, shifts)
        locality = self._locality(facts, shifts, loc_coef=loc_coef)
        self._update(files, shifts)
        return MetaLoss(generalisation, locality, generalisation + loc_coef * locality)

    def edit_and_score(self, facts: Sequence[EncodedFact]) -> tuple[Tensor, Tensor, Tensor]:
        """Edit all facts in at once; return ES, GS and LS of every fact, each of shape (facts,)."""
        shifts = self._shifts(self._record(facts, observe=False))
        self._add(shifts, 1)
        scores = (
            self._accuracies([fact.edit for fact in facts]),
            self._accuracies([fact.equivalent for fact in facts]),
            self._accuracies([fact.unrelated for fact in facts]),
        )
        self._add(shifts, -1)
        return scores

    # --- the phases of a step ---

    def _record(self, facts: Sequence[EncodedFact], *, observe: bool) -> int:
        """Write keys and value gradients of the edit tuples; return the number of files a layer."""
        batches = self._batches([fact.edit for fact in facts])
        for index, batch in enumerate(batches):
            with self._traced() as (keys, gradients):
                self._sum(self._losses(batch), batch).backward()
            at = batch.rows, batch.columns
            for name in self.layers:
                tokens = keys[name][at], gradients[name][at]
                if observe:
                    self.editor.observe({name: tokens})
                torch.save(tokens, self._file(name, index))
        self.model.zero_grad()
        return len(batches)

    @torch.no_grad()
    def _shifts(self, files: int) -> dict[str, Tensor]:
        """Return the transposed shift of every layer, (d, d')."""
        shifts = {}
        for name in self.layers:
            keys, gradients = self._read(name, files)
            rows = torch.cat([self.editor.outputs(name, *t) for t in self._split(keys, gradients)])
            shifts[name] = torch.linalg.solve(self._system(name, keys), keys.T @ rows)
        return shifts

    def _generalisation(self, facts: Sequence[EncodedFact], shifts: dict[str, Tensor]) -> float:
        """Back-propagate L_gen to the weights and return it."""
        total = 0.0
        self._add(shifts, 1)
        for batch in self._batches([fact.equivalent for fact in facts]):
            loss = self._sum(self._losses(batch), batch) / len(facts)
            loss.backward()
            total += loss.item()
        self._add(shifts, -1)
        return total

    def _locality(
        self, facts: Sequence[EncodedFact], shifts: dict[str, Tensor], *, loc_coef: float
    ) -> float:
        """Back-propagate loc_coef · L_loc to the weights and return L_loc."""
        total = 0.0
        for batch in self._batches([fact.unrelated for fact in facts]):
            with torch.no_grad():
                before = self._logits(batch)[batch.rows, batch.columns]
            self._add(shifts, 1)
            after = self._logits(batch)[batch.rows, batch.columns]
            divergences = F.kl_div(
                after.log_softmax(-1), before.log_softmax(-1), reduction="none", log_target=True
            ).sum(-1)
            loss = self._sum(divergences, batch) / len(facts)
            (loc_coef * loss).backward()
            self._add(shifts, -1)
            total += loss.item()
        return total

    def _update(self, files: int, shifts: dict[str, Tensor]) -> None:
        """Take the weights' gradients to the editor: Theorems 1 and 2, then the proxy loss."""
        for name, layer in self.layers.items():
            keys, gradients = self._read(name, files)
            log_lambda = self.editor.log_lambdas[self.editor.layer_index[name]]
            with torch.no_grad():
                weight_gradient = _transposed_shift(layer, layer.weight.grad)
                solved = torch.linalg.solve(self._system(name, keys), weight_gradient)
                grad_log_lambda = -log_lambda.exp() * (solved * shifts[name]).sum()
                grad_rows = keys @ solved
            if log_lambda.requires_grad:
                (grad_log_lambda * log_lambda).backward()
            for *tokens, grad in self._split(keys, gradients, grad_rows):
                (grad * self.editor.outputs(name, *tokens)).sum().backward()
        self.model.zero_grad()

    # --- what they are made of ---

    def _batches(self, examples: Sequence[Example]) -> Batches:
        size = self.editor.settings.fact_batch
        return make_batches(examples, size=size, device=self.model.device)

    def _split(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield the rows of the tensors, a hyper-network's batch at a time."""
        size = self.editor.settings.token_batch
        return zip(*(tensor.split(size) for tensor in tensors), strict=True)

    def _logits(self, batch: Batch) -> Tensor:
        """Return the logits of every position, (b, t, vocabulary)."""
        labels = torch.full_like(batch.input_ids, IGNORED)
        labels[batch.rows, batch.columns] = batch.targets
        logits: Tensor = self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=labels,
            use_cache=False,
        ).logits
        return logits

    def _losses(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of every answer, (answers,)."""
        logits = self._logits(batch)[batch.rows, batch.columns]
        return F.cross_entropy(logits, batch.targets, reduction="none")

    def _sum(self, values: Tensor, batch: Batch) -> Tensor:
        """Return the sum over facts of the mean over a fact's answers."""
        return (values * batch.weights.to(values.dtype)).sum()

    @torch.no_grad()
    def _accuracies(self, examples: Sequence[Example]) -> Tensor:
        """Return the share of every example's answers that are predicted, (examples,)."""
        accuracies = torch.zeros(len(examples), dtype=torch.float64, device=self.model.device)
        for batch in self._batches(examples):
            predicted = self._logits(batch).argmax(-1)[batch.rows, batch.columns]
            accuracies.index_add_(0, batch.facts, (predicted == batch.targets) * batch.weights)
        return accuracies

    def _system(self, name: str, keys: Tensor) -> Tensor:
        """Return UUᵀ + λI, (d, d)."""
        lam = self.editor.log_lambdas[self.editor.layer_index[name]].exp()
        return keys.T @ keys + lam * torch.eye(keys.shape[1], dtype=keys.dtype, device=keys.device)

    def _add(self, shifts: dict[str, Tensor], sign: int) -> None:
        """Add the shifts to the weights, or subtract them."""
        for name, shift in shifts.items():
            layer = self.layers[name]
            layer.weight.data.add_(_transposed_shift(layer, shift), alpha=sign)

    def _file(self, name: str, index: int) -> Path:
        return self.folder / f"{name}_{index}.pt"

    def _read(self, name: str, files: int) -> tuple[Tensor, Tensor]:
        """Return the keys (n, d) and value gradients (n, d') of a layer."""
        parts = [torch.load(self._file(name, index)) for index in range(files)]
        keys, gradients = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return keys, gradients

    @contextmanager
    def _traced(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Yield what enters the edited layers, and the gradients at their outputs."""
        keys: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}

        def trace(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
            def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
                keys[name] = args[0].detach()
                output.register_hook(lambda gradient: gradients.update({name: gradient}))

            return layer.register_forward_hook(hook)

        handles = [trace(name, layer) for name, layer in self.layers.items()]
        try:
            yield keys, gradients
        finally:
            for handle in handles:
                handle.remove()


def _transposed_shift(layer: nn.Module, matrix: Tensor) -> Tensor:
    """Turn a weight of a layer into a (d, d') matrix and back: Conv1D's is one."""
    return matrix if isinstance(layer, Conv1D) else matrix.T
