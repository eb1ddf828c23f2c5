"""What every editor shares: the protocol, and the cores of those that work token by token."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from malmen.hypernetwork import HyperNetwork
from malmen.lm.batches import LossWeights
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.normal_equation import Sums, cheaper_form, parameter_shift
from malmen.recording.capture import Record, capture
from malmen.recording.spill import Vectors, in_memory
from malmen.settings import HyperSettings, TokenSettings

__all__ = [
    "Batches",
    "Demanding",
    "Editor",
    "HyperNetworkEditor",
    "LeastSquaresEditor",
    "Reconciled",
    "Remembering",
    "ShiftOfCross",
    "ShiftOfRows",
    "Shifts",
    "TokenEditor",
]

Shifts = Mapping[str, Tensor]
"""Parameter shift S of every edited layer by the layer's name, each of shape (d', d)."""


class Editor(Protocol):
    """Anything that turns facts into one parameter shift a layer."""

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        """Return the shifts that write all ``facts`` into the language model at once."""
        ...


@runtime_checkable
class Demanding(Protocol):
    """An editor that cannot edit every fact."""

    def check(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> None:
        """Raise an :class:`InputError` that names what it cannot edit, before it edits anything."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """An editor whose edits may be faster for what it remembers of earlier ones.

    Attributes:
        remembered_seconds: what the last edit would have taken longer without.
    """

    remembered_seconds: float


Batches = Iterable[tuple[Tensor, Tensor]]
"""Keys (k, d) and rows of some tokens at a time."""


@dataclass(frozen=True)
class ShiftOfCross:
    """A shift that knows the rows of its tokens by their cross product with the keys alone.

    Attributes:
        shift: (d', d), differentiable in ``cross`` and in the editor's own parameters.
        cross: (d', d), a leaf.
        cross_of: the cross product of some tokens, from their keys and rows.
    """

    shift: Tensor
    cross: Tensor
    cross_of: Callable[[Tensor, Tensor], Tensor]

    def back_propagate(self, batches: Batches) -> None:
        """Back-propagate the proxy loss ⟨∇_X L_meta, X⟩ of the cross product X to the rows."""
        weight = self.cross.grad
        assert weight is not None
        for keys, rows in batches:
            (weight.to(rows.dtype) * self.cross_of(keys, rows)).sum().backward()


@dataclass(frozen=True)
class ShiftOfRows:
    """A shift that knows the rows of all its tokens.

    Attributes:
        shift: (d', d), differentiable in ``rows`` and in the editor's own parameters.
        rows: those of all tokens, a leaf.
        graph: the rows that the leaf was cut from, with their graph, if that was to be kept.
    """

    shift: Tensor
    rows: Tensor
    graph: Tensor | None

    def back_propagate(self, batches: Batches) -> None:
        """Back-propagate the proxy loss Σ_j ⟨∇_{row_j} L_meta, row_j⟩ to the rows."""
        weights = self.rows.grad
        assert weights is not None
        if self.graph is not None:
            self.graph.backward(weights)
            return
        done = 0
        for _, rows in batches:
            (weights[done : done + len(rows)] * rows).sum().backward()
            done += len(rows)


Reconciled = ShiftOfCross | ShiftOfRows
"""The shift of a layer, and the way back from it to the rows of its tokens."""


class TokenEditor(ABC):
    """An editor that makes one row of every cached token, and a parameter shift of all rows.

    The rows enter the shift through their cross product with the keys, a sum over tokens: it can
    be summed in batches, so that memory does not depend on the number of tokens, and its gradient
    gives the rows theirs.
    """

    layers: Mapping[str, tuple[int, int]]
    settings: TokenSettings
    loss_weights: LossWeights = "facts"
    """What weighs equally in the loss of the edit tuples."""

    @abstractmethod
    def outputs(self, layer: str, keys: Tensor, gradients: Tensor) -> Tensor:
        """Return one row a token from keys (n, d) and value gradients (n, d')."""

    @abstractmethod
    def combine(self, layer: str, keys: Tensor, outputs: Tensor) -> Tensor:
        """Return the parameter shift (d', d) from keys (n, d) and the rows of all tokens."""

    @abstractmethod
    def cross(self, keys: Tensor, outputs: Tensor) -> Tensor:
        """Return the cross product (d', d) of some tokens from keys (n, d) and their rows."""

    @abstractmethod
    def combine_batches(self, layer: str, batches: Batches) -> ShiftOfCross:
        """Return the parameter shift from the keys and rows of some tokens at a time."""

    def sums_tokens(self, layer: str, n: int) -> bool:
        """Tell whether :meth:`combine_batches` suits a layer's n tokens, or :meth:`combine`."""
        return True

    def record(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Record:
        """Return keys and value gradients of the edit tuples' cached tokens."""
        settings = self.settings
        edits = [fact.edit for fact in facts]
        batches = lm.batches(edits, size=settings.fact_batch, loss_weights=self.loss_weights)
        return capture(lm, batches, cached=settings.cached, memory_mb=settings.memory_mb)

    def token_batches(self, tokens: tuple[Vectors, Vectors]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield keys and value gradients of ``token_batch`` tokens at a time."""
        keys, gradients = (rows.split(self.settings.token_batch) for rows in tokens)
        yield from zip(keys, gradients, strict=True)

    def rows(self, layer: str, tokens: tuple[Vectors, Vectors]) -> Batches:
        """Yield keys and rows of ``token_batch`` tokens of a layer at a time."""
        return ((u, self.outputs(layer, u, g)) for u, g in self.token_batches(tokens))

    def reconcile(
        self, layer: str, tokens: tuple[Vectors, Vectors], *, keeps_graph: bool = False
    ) -> Reconciled:
        """Return the shift of a layer; its rows are computed in batches.

        Args:
            layer: its name.
            tokens: its keys and value gradients.
            keeps_graph: whether rows that enter the shift as they are keep their graph.
        """
        if self.sums_tokens(layer, len(tokens[0])):
            return self.combine_batches(layer, _without_graphs(self.rows(layer, tokens)))
        with torch.set_grad_enabled(keeps_graph):
            graph = torch.cat([rows for _, rows in self.rows(layer, tokens)])
        rows = graph.detach().requires_grad_()
        shift = self.combine(layer, in_memory(tokens[0]), rows)
        return ShiftOfRows(shift, rows, graph if keeps_graph else None)

    @torch.no_grad()
    def shifts(self, record: Record) -> Shifts:
        """Return the shift of every layer from the keys and value gradients of all tokens."""
        return {layer: self.reconcile(layer, tokens).shift for layer, tokens in record.items()}

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        """Return the shifts that write all ``facts`` at once; the editor stays as it is."""
        return self.shifts(self.record(lm, facts))


def _without_graphs(batches: Batches) -> Batches:
    """Yield batches, each made without a graph, whatever is done with it."""
    waiting = iter(batches)
    while True:
        with torch.no_grad():
            batch = next(waiting, None)
        if batch is None:
            return
        yield batch


class LeastSquaresEditor(TokenEditor):
    """A token editor whose rows are value differences d_j, reconciled by the normal equation."""

    @abstractmethod
    def lam(self, layer: str) -> Tensor:
        """Return λ of a layer, a scalar."""

    def combine(self, layer: str, keys: Tensor, outputs: Tensor) -> Tensor:
        """Return S = DUᵀ(UUᵀ + λI)⁻¹, shape (d', d)."""
        return parameter_shift(keys.T, outputs.T, self.lam(layer))

    def cross(self, keys: Tensor, outputs: Tensor) -> Tensor:
        """Return DUᵀ, shape (d', d)."""
        return outputs.T @ keys

    def combine_batches(self, layer: str, batches: Batches) -> ShiftOfCross:
        """Return S = DUᵀ(UUᵀ + λI)⁻¹ from its sums, which are in double precision."""
        d, value_size = self.layers[layer]
        lam = self.lam(layer)
        sums = Sums.zeros(key_size=d, value_size=value_size, device=lam.device)
        for keys, rows in batches:
            sums.add(keys.T, rows.T)
        sums.cross.requires_grad_()
        return ShiftOfCross(sums.shift(lam).to(rows.dtype), sums.cross, self.cross)

    def sums_tokens(self, layer: str, n: int) -> bool:
        """Tell whether the normal equation of n tokens is cheaper to solve by its sums."""
        d, value_size = self.layers[layer]
        return cheaper_form(d=d, n=n, value_size=value_size) != "dual"


class HyperNetworkEditor(nn.Module, TokenEditor):
    """The core that MALMEN and MEND share.

    A subclass says what the hyper-network's outputs mean. The rows are where the two phases of
    meta-training meet (method of the paper, Fig. 2): they are computed once without a graph,
    reconciled, evaluated; their gradient is then the weight of each row in the proxy loss.

    Args:
        layers: (d, d') of every edited layer by name.
        settings: hyper-parameters.
    """

    settings: HyperSettings

    def __init__(self, layers: Mapping[str, tuple[int, int]], settings: HyperSettings) -> None:
        super().__init__()
        self.layers, self.settings = layers, settings
        self.loss_weights = settings.loss_weights
        shapes = sorted(set(layers.values()))
        self.networks = nn.ModuleList(
            HyperNetwork(
                key_size=d,
                value_size=value_size,
                n_layers=sum(shape == (d, value_size) for shape in layers.values()),
                rank=settings.rank,
                n_blocks=settings.n_blocks,
            )
            for d, value_size in shapes
        )
        self.layer_index = {name: index for index, name in enumerate(layers)}
        self._network_of: dict[str, tuple[int, int]] = {}  # network, index among its layers
        for network, shape in enumerate(shapes):
            members = [name for name in layers if layers[name] == shape]
            self._network_of |= {name: (network, index) for index, name in enumerate(members)}
        self.learning_rates = nn.Parameter(torch.full((len(layers),), settings.learning_rate))

    def learning_rate(self, layer: str) -> Tensor:
        """Return η of a layer, a scalar."""
        return self.learning_rates[self.layer_index[layer]]

    def pseudo(self, layer: str, keys: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return pseudo keys (n, d) and pseudo value gradients (n, d') of a layer's tokens."""
        network, index = self._network_of[layer]
        pseudo: tuple[Tensor, Tensor] = self.networks[network](keys, gradients, index)
        return pseudo

    def observe(self, record: Record) -> None:
        """Update the running normalisation with the tokens of a record.

        A normaliser that has seen nothing changes nothing.
        """
        if not self.settings.normalise:
            return
        for layer, tokens in record.items():
            network = self.networks[self._network_of[layer][0]]
            assert isinstance(network, HyperNetwork)
            for keys, gradients in self.token_batches(tokens):
                network.observe(keys, gradients)
