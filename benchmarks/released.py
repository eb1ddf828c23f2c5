"""MALMEN, MEND and UltraEdit as released: the side that ours is compared with, and timed beside.

It is written from the specification alone (the method, and a table of what the released code
computes), and takes nothing from the suite but two classes of data. What it does not share, a
comparison can show: the hyper-network and its start, the running statistics, losses and their
weights, batches, hooks, the solve and its gradients, Adam's step.

It goes about a step as the released code does, and no slower:

* logits of the whole vocabulary at every position, and the labels are given to the language model,
  which computes a loss that nobody reads;
* keys and value gradients go to disk, a file a batch and layer, and are read back twice a step;
* the hyper-network runs twice: without a graph for the shifts, with one for its gradient;
* UUᵀ + λI is built twice and factorised twice, by LU, in the precision of the keys;
* shifts are added to the weights and subtracted again, once for all equivalent tuples and once for
  every batch of unrelated ones, which run twice: before and after;
* the frozen lower layers run in every pass; gradients stop at the lowest edited layer.

:class:`Departures` holds where the suite computes something else on purpose; each can be switched
on, so that the rest can be held to it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from malmen.lm.batches import Example
from malmen.lm.encoding import EncodedFact

__all__ = ["Departures", "HyperNetwork", "Losses", "Recipe", "Released", "Statistics"]

IGNORED = -100
"""Label of a position that is no answer, as transformers has it."""

FLOOR = 1e-2
"""Of the suite's standard deviations, relative to the features' root mean square."""


@dataclass(frozen=True, kw_only=True)
class Departures:
    """Where the suite computes something else than the released code; by default it is released.

    Attributes:
        facts_weigh_equally: the loss of a tuple is a mean over its answers, and the meta loss a
            mean over facts; released is a mean over the answers of a batch, summed over batches.
        exact_statistics: variances are those of all rows seen, and floored; released adds m · var
            for every batch of m rows, which is too much, and divides by n - 1.
    """

    facts_weigh_equally: bool = False
    exact_statistics: bool = False


RELEASED = Departures()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyper-parameters, in the words of the specification; the defaults are the published ones."""

    editor: Literal["malmen", "mend", "ultraedit"] = "malmen"
    rank: int = 1920
    n_blocks: int = 2
    learning_rate: float = 1e-6
    meta_learning_rate: float = 1e-5
    loc_coef: float = 1.0
    clip: float = 1.0
    token_batch: int = 1024
    fact_batch: int = 32
    cached: Literal["ans", "all"] = "ans"
    learn_lambda: bool = True
    departures: Departures = RELEASED


@dataclass(frozen=True)
class Losses:
    """L_gen, L_loc and L_meta of a step."""

    generalisation: float
    locality: float
    total: float


class Statistics(nn.Module):
    """Running mean and standard deviation of features."""

    n: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, size: int, *, exact: bool) -> None:
        super().__init__()
        self.exact = exact
        self.register_buffer("n", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("squares", torch.zeros(size))

    def update(self, x: Tensor) -> None:
        """Take in a batch (m, size)."""
        m, n = len(x), self.n + len(x)
        delta = x.mean(0) - self.mean
        self.mean = self.mean + m * delta / n
        within = x.var(0, correction=0 if self.exact else 1)
        self.squares = self.squares + m * within + self.n * m / n * delta**2
        self.n = n

    def std(self) -> Tensor:
        """Return the standard deviation of every feature; one before anything was seen."""
        if self.n == 0:
            return torch.ones_like(self.squares)
        if not self.exact:
            return (self.squares / (self.n - 1)).sqrt() + torch.finfo(self.squares.dtype).eps
        std = (self.squares / self.n).sqrt()
        return std.clamp(min=FLOOR * std.square().mean().sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Return (x - mean) / std."""
        return (x - self.mean) / self.std()


class HyperNetwork(nn.Module):
    """Residual blocks z ← z + s_ℓ ⊙ relu(zAB + b) + t_ℓ over the normalised (u, ∇v)."""

    def __init__(self, d: int, value_size: int, n_layers: int, recipe: Recipe) -> None:
        super().__init__()
        self.d, size = d, d + value_size
        exact = recipe.departures.exact_statistics
        self.statistics = nn.ModuleList(Statistics(s, exact=exact) for s in (d, value_size))
        self.blocks = nn.ModuleList(
            nn.ParameterDict(
                {
                    "A": nn.Parameter(torch.randn(size, recipe.rank)),
                    "B": nn.Parameter(torch.zeros(recipe.rank, size)),
                    "bias": nn.Parameter(torch.zeros(size)),
                    "scale": nn.Parameter(torch.ones(n_layers, size)),
                    "offset": nn.Parameter(torch.zeros(n_layers, size)),
                }
            )
            for _ in range(recipe.n_blocks)
        )

    def observe(self, u: Tensor, g: Tensor) -> None:
        """Move the running statistics."""
        for statistics, x in zip(self.statistics, (u, g), strict=True):
            assert isinstance(statistics, Statistics)
            statistics.update(x)

    def forward(self, u: Tensor, g: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return pseudo keys and pseudo value gradients."""
        normalise_u, normalise_g = self.statistics
        z = torch.cat([normalise_u(u), normalise_g(g)], dim=1)
        for p in self.blocks:
            x = (z @ p["A"] @ p["B"] + p["bias"]).clamp(min=0)  # type: ignore[index]
            z = z + p["scale"][layer] * x + p["offset"][layer]  # type: ignore[index]
        return z[:, : self.d], z[:, self.d :]


class Released:
    """An editor as released, on a language model of its own, whose weights it writes to.

    Args:
        model: the language model; nothing else may use its weights.
        layers: names of its edited layers.
        recipe: hyper-parameters.
        folder: where keys and value gradients are kept within a step.
    """

    def __init__(
        self, model: PreTrainedModel, layers: Sequence[str], recipe: Recipe, folder: Path
    ) -> None:
        self.model, self.recipe, self.folder = model.eval().requires_grad_(False), recipe, folder
        self.judges = model.config.model_type == "bert"  # a fact checker: one logit a claim
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        if not self.judges:
            model.loss_type = "ForCausalLM"  # what it takes anyway, without saying so
        self.layers: dict[str, Any] = {name: model.get_submodule(name) for name in layers}
        for layer in self.layers.values():
            layer.weight.requires_grad_(True)
        shapes = {name: _shape(layer) for name, layer in self.layers.items()}
        self.network_of = {  # one hyper-network a shape; layers of a shape are told apart by number
            name: (shape, [n for n in shapes if shapes[n] == shape].index(name))
            for name, shape in shapes.items()
        }
        self.networks = {
            shape: HyperNetwork(*shape, list(shapes.values()).count(shape), recipe).to(
                model.device, model.dtype
            )
            for shape in sorted(set(shapes.values()))
        }
        of_layer = partial(torch.full, (len(layers),), dtype=model.dtype, device=model.device)
        self.learning_rates = nn.Parameter(of_layer(fill_value=recipe.learning_rate))
        self.log_lambdas = nn.Parameter(of_layer(fill_value=0.0))
        self.index = {name: i for i, name in enumerate(layers)}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return all that is learned, by name."""
        found = {
            f"networks.{i}.{name}": parameter
            for i, network in enumerate(self.networks.values())
            for name, parameter in network.named_parameters()
        }
        found["learning_rates"] = self.learning_rates
        if self.recipe.editor == "malmen" and self.recipe.learn_lambda:
            found["log_lambdas"] = self.log_lambdas
        return found

    def optimizer(self) -> torch.optim.Adam:
        """Return a new Adam over all that is learned."""
        return torch.optim.Adam(self.parameters().values(), lr=self.recipe.meta_learning_rate)

    def step(self, facts: Sequence[EncodedFact], optimizer: torch.optim.Adam) -> Losses:
        """Do one step of meta-training; the gradient before clipping stays in the parameters."""
        optimizer.zero_grad()
        losses = self.meta_gradient(facts)
        self.clipped_step(optimizer)
        return losses

    def clipped_step(self, optimizer: torch.optim.Adam) -> None:
        """Clip the gradient in place and let Adam step."""
        nn.utils.clip_grad_norm_(self.parameters().values(), self.recipe.clip)
        optimizer.step()

    def meta_gradient(self, facts: Sequence[EncodedFact]) -> Losses:
        """Record the edit tuples and add the gradient of the meta loss to the parameters' grad.

        The running statistics move.
        """
        files = self.record(facts, observe=True)
        shifts = self.shifts(files)
        generalisation = self._generalisation(facts, shifts)
        locality = self._locality(facts, shifts)
        self._update(files, shifts)
        total = generalisation + self.recipe.loc_coef * locality
        return Losses(generalisation, locality, total)

    def edit_and_score(self, facts: Sequence[EncodedFact]) -> tuple[Tensor, Tensor, Tensor]:
        """Edit all facts in at once; return ES, GS and LS of every fact, each of shape (facts,)."""
        shifts = self.shifts(self.record(facts, observe=False))
        self._add(shifts, 1)
        scores = (
            self._accuracies([fact.edit for fact in facts]),
            self._accuracies([fact.equivalent for fact in facts]),
            self._accuracies([fact.unrelated for fact in facts]),
        )
        self._add(shifts, -1)
        return scores

    # --- the phases of a step ---

    def record(self, facts: Sequence[EncodedFact], *, observe: bool) -> int:
        """Write keys and value gradients of the edit tuples; return the number of files a layer."""
        batches = self._batches([fact.edit for fact in facts])
        for index, batch in enumerate(batches):
            with self._traced() as (keys, gradients):
                self._weighted(self._losses(batch), batch).backward()
            for name in self.layers:
                cached = self._cached(batch, name)
                tokens = keys[name][cached], gradients[name][cached]
                if observe:
                    self._network(name)[0].observe(*tokens)
                torch.save(tokens, self._file(name, index))
        self.model.zero_grad()
        return len(batches)

    @torch.no_grad()
    def shifts(self, files: int) -> dict[str, Tensor]:
        """Return the transposed shift of every layer, (d, d')."""
        shifts = {}
        for name in self.layers:
            keys, gradients = self._read(name, files)
            if self.recipe.editor == "mend":
                parts = [self._sum_of(name, *tokens) for tokens in self._split(keys, gradients)]
                shifts[name] = torch.stack(parts).sum(0)
                continue
            rows = torch.cat([self.differences(name, *t) for t in self._split(keys, gradients)])
            shifts[name] = torch.linalg.solve(self._system(name, keys), keys.T @ rows)
        return shifts

    def differences(self, name: str, keys: Tensor, gradients: Tensor) -> Tensor:
        """Return d_j of some tokens, (n, d')."""
        network, number = self._network(name)
        if self.recipe.editor == "ultraedit":
            normalise_u, normalise_g = network.statistics
            squares = normalise_u(keys).square().sum(1, keepdim=True)
            return -self.recipe.learning_rate * squares * normalise_g(gradients)
        pseudo_keys, pseudo_gradients = network(keys, gradients, number)
        rate = self.learning_rates[self.index[name]]
        return -rate * (pseudo_keys * keys).sum(1, keepdim=True) * pseudo_gradients

    def _sum_of(self, name: str, keys: Tensor, gradients: Tensor) -> Tensor:
        """Return -η Σ_j ũ_j ṽ_jᵀ of some tokens, (d, d')."""
        network, number = self._network(name)
        pseudo_keys, pseudo_gradients = network(keys, gradients, number)
        return -self.learning_rates[self.index[name]] * pseudo_keys.T @ pseudo_gradients

    def _generalisation(self, facts: Sequence[EncodedFact], shifts: Mapping[str, Tensor]) -> float:
        """Back-propagate L_gen to the weights and return it."""
        total = 0.0
        self._add(shifts, 1)
        for batch in self._batches([fact.equivalent for fact in facts]):
            loss = self._weighted(self._losses(batch), batch) / self._count(facts)
            loss.backward()
            total += loss.item()
        self._add(shifts, -1)
        return total

    def _locality(self, facts: Sequence[EncodedFact], shifts: Mapping[str, Tensor]) -> float:
        """Back-propagate loc_coef · L_loc to the weights and return L_loc."""
        total = 0.0
        for batch in self._batches([fact.unrelated for fact in facts]):
            with torch.no_grad():
                before = self._answers(batch)
            self._add(shifts, 1)
            divergences = self._divergence(self._answers(batch), before)
            loss = self._weighted(divergences, batch) / self._count(facts)
            (self.recipe.loc_coef * loss).backward()
            self._add(shifts, -1)
            total += loss.item()
        return total

    def _update(self, files: int, shifts: Mapping[str, Tensor]) -> None:
        """Take the weights' gradients to the editor: Theorems 1 and 2, then the proxy loss."""
        for name, layer in self.layers.items():
            keys, gradients = self._read(name, files)
            weight_gradient = _transposed_shift(layer, layer.weight.grad)
            if self.recipe.editor == "mend":
                for tokens in self._split(keys, gradients):
                    (weight_gradient * self._sum_of(name, *tokens)).sum().backward()
                continue
            log_lambda = self.log_lambdas[self.index[name]]
            with torch.no_grad():
                solved = torch.linalg.solve(self._system(name, keys), weight_gradient)
                grad_log_lambda = -log_lambda.exp() * (solved * shifts[name]).sum()
                grad_rows = keys @ solved
            if self.recipe.learn_lambda:
                (grad_log_lambda * log_lambda).backward()
            for u, g, grad in self._split(keys, gradients, grad_rows):
                (grad * self.differences(name, u, g)).sum().backward()
        self.model.zero_grad()

    # --- what they are made of ---

    def _network(self, name: str) -> tuple[HyperNetwork, int]:
        shape, number = self.network_of[name]
        return self.networks[shape], number

    def _count(self, facts: Sequence[EncodedFact]) -> int:
        return len(facts) if self.recipe.departures.facts_weigh_equally else 1

    def _batches(self, examples: Sequence[Example]) -> list["_Batch"]:
        """Put examples of like length together."""
        size = self.recipe.fact_batch
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        return [_Batch(g, [examples[i] for i in g], self.model.device) for g in groups]

    def _split(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield the rows of the tensors, a hyper-network's batch at a time."""
        return zip(*(tensor.split(self.recipe.token_batch) for tensor in tensors), strict=True)

    def _cached(self, batch: "_Batch", name: str) -> Tensor:
        """Return (b, t), true at cached tokens: T5's are all, on either side."""
        if self.is_encoder_decoder:
            is_decoder = name.startswith("decoder.")
            return batch.decoder_mask.bool() if is_decoder else batch.mask.bool()
        return batch.mask.bool() if self.recipe.cached == "all" else batch.is_answer

    def _logits(self, batch: "_Batch") -> Tensor:
        """Return the logits of every position, (b, t, vocabulary); of a fact checker, (b, 1)."""
        inputs: dict[str, Tensor] = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if self.judges:
            return self.model(**inputs).logits
        if self.is_encoder_decoder:
            inputs["decoder_input_ids"] = batch.decoder_ids
            inputs["decoder_attention_mask"] = batch.decoder_mask
        labels = torch.where(batch.is_answer, batch.labels, IGNORED)
        logits: Tensor = self.model(**inputs, labels=labels, use_cache=False).logits
        return logits

    def _answers(self, batch: "_Batch") -> Tensor:
        """Return the logits at answers, (answers, vocabulary); of a fact checker, (b,)."""
        logits = self._logits(batch)
        return logits[:, 0] if self.judges else logits[batch.is_answer]

    def _losses(self, batch: "_Batch") -> Tensor:
        """Return the cross-entropy of every answer, (answers,)."""
        logits, targets = self._answers(batch), batch.labels[batch.is_answer]
        if self.judges:
            targets = targets.to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return F.cross_entropy(logits, targets, reduction="none")

    def _divergence(self, after: Tensor, before: Tensor) -> Tensor:
        """Return KL(before ‖ after) at every answer, (answers,)."""
        if self.judges:  # of the two labels
            after, before = (torch.stack([x, torch.zeros_like(x)], 1) for x in (after, before))
        before, after = before.log_softmax(-1), after.log_softmax(-1)
        return (before.exp() * (before - after)).sum(-1)

    def _weighted(self, values: Tensor, batch: "_Batch") -> Tensor:
        """Return the loss of a batch from a value an answer."""
        if not self.recipe.departures.facts_weigh_equally:
            return values.mean()
        counts = batch.is_answer.sum(1)
        return (values / counts.repeat_interleave(counts)).sum()

    @torch.no_grad()
    def _accuracies(self, examples: Sequence[Example]) -> Tensor:
        """Return the share of every example's answers that are predicted, (examples,)."""
        accuracies = torch.zeros(len(examples), dtype=torch.float64, device=self.model.device)
        for batch in self._batches(examples):
            right = (self._logits(batch).argmax(-1) == batch.labels) & batch.is_answer
            accuracies[batch.members] = right.sum(1).double() / batch.is_answer.sum(1)
        return accuracies

    def _system(self, name: str, keys: Tensor) -> Tensor:
        """Return UUᵀ + λI, (d, d)."""
        lam = self.log_lambdas[self.index[name]].exp()
        return keys.T @ keys + lam * torch.eye(keys.shape[1], dtype=keys.dtype, device=keys.device)

    def _add(self, shifts: Mapping[str, Tensor], sign: int) -> None:
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

        def trace(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
                keys[name] = args[0].detach()
                output.register_hook(lambda gradient: gradients.update({name: gradient}))

            return hook

        handles = [layer.register_forward_hook(trace(n)) for n, layer in self.layers.items()]
        try:
            yield keys, gradients
        finally:
            for handle in handles:
                handle.remove()


class _Batch:
    """Padded examples.

    Attributes:
        members: (b,) index of each example.
        ids, mask: (b, t), the input and 1 where it has a token.
        decoder_ids, decoder_mask: (b, s) the same of a decoder beside an encoder.
        is_answer: (b, t or s), true where an answer is predicted.
        labels: (b, t or s), the answer there.
    """

    def __init__(
        self, members: Sequence[int], examples: Sequence[Example], device: torch.device
    ) -> None:
        self.members = torch.tensor(members, device=device)
        self.ids, self.mask = _padded([example.ids for example in examples], device)
        decoders = [example.decoder_ids for example in examples]
        self.decoder_ids, self.decoder_mask = _padded(decoders, device)
        at = self.decoder_ids if decoders[0] else self.ids
        self.labels = torch.zeros_like(at)
        self.is_answer = torch.zeros_like(at, dtype=torch.bool)
        for row, example in enumerate(examples):
            positions = list(example.positions)
            self.is_answer[row, positions] = True
            self.labels[row, positions] = torch.tensor(example.targets, device=device)


def _padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
    masks = [torch.ones_like(row) for row in rows]
    ids, mask = (pad_sequence(tensors, batch_first=True) for tensors in (rows, masks))
    return ids.to(device), mask.to(device)


def _shape(layer: nn.Module) -> tuple[int, int]:
    """Return (d, d') of a linear layer."""
    weight: Any = layer.weight
    return tuple(weight.shape if isinstance(layer, Conv1D) else weight.shape[::-1])


def _transposed_shift(layer: nn.Module, matrix: Tensor) -> Tensor:
    """Turn a weight of a layer into a (d, d') matrix and back: Conv1D's is one."""
    return matrix if isinstance(layer, Conv1D) else matrix.T
