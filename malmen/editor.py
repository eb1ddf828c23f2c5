"""What every editor shares: the protocol, and the cores of those that work token by token."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from malmen.capture import Record, capture
from malmen.encoding import EncodedFact
from malmen.hypernetwork import HyperNetwork
from malmen.models.language_model import LanguageModel
from malmen.settings import HyperSettings, TokenSettings

__all__ = ["Editor", "HyperNetworkEditor", "Shifts", "TokenEditor"]

Shifts = Mapping[str, Tensor]
"""Parameter shift S of every edited layer by the layer's name, each of shape (d', d)."""


class Editor(Protocol):
    """Anything that turns facts into one parameter shift a layer."""

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        """Return the shifts that write all ``facts`` into the language model at once."""
        ...


class TokenEditor(ABC):
    """An editor that makes one row of every cached token, and a parameter shift of all rows."""

    settings: TokenSettings

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the editor computes; keys, value gradients and rows rest in the host's memory."""

    @abstractmethod
    def outputs(self, layer: str, keys: Tensor, gradients: Tensor) -> Tensor:
        """Return one row a token from keys (n, d) and value gradients (n, d')."""

    @abstractmethod
    def combine(self, layer: str, keys: Tensor, outputs: Tensor) -> Tensor:
        """Return the parameter shift (d', d) from keys (n, d) and the rows of all tokens.

        Keys and rows may rest in another memory than the editor's, where the shift will be.
        """

    def record(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Record:
        """Return keys and value gradients of the edit tuples' cached tokens."""
        batches = lm.batches([fact.edit for fact in facts], size=self.settings.fact_batch)
        return capture(lm, batches, cached=self.settings.cached)

    @torch.no_grad()
    def outputs_in_batches(self, layer: str, keys: Tensor, gradients: Tensor) -> Tensor:
        """Compute :meth:`outputs` without a graph, ``token_batch`` rows at a time."""
        batches = zip(
            keys.split(self.settings.token_batch),
            gradients.split(self.settings.token_batch),
            strict=True,
        )
        rows = (self.outputs(layer, u.to(self.device), g.to(self.device)) for u, g in batches)
        return torch.cat([row.to(keys.device) for row in rows])

    @torch.no_grad()
    def shifts(self, record: Record) -> Shifts:
        """Return the shift of every layer from the keys and value gradients of all tokens."""
        return {
            layer: self.combine(layer, keys, self.outputs_in_batches(layer, keys, gradients))
            for layer, (keys, gradients) in record.items()
        }

    def edit(self, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Shifts:
        """Return the shifts that write all ``facts`` at once; the editor stays as it is."""
        return self.shifts(self.record(lm, facts))


class HyperNetworkEditor(nn.Module, TokenEditor):
    """The core that MALMEN and MEND share.

    A subclass says what the hyper-network's outputs mean. The rows are where the two phases of
    meta-training meet (method of the paper, Fig. 2): they are computed once without a graph,
    combined, evaluated; their gradient is then the weight of each row in the proxy loss.

    Args:
        layers: (d, d') of every edited layer by name.
        settings: hyper-parameters.
    """

    settings: HyperSettings

    def __init__(self, layers: Mapping[str, tuple[int, int]], settings: HyperSettings) -> None:
        super().__init__()
        self.settings = settings
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

    @property
    def device(self) -> torch.device:
        """Where the hyper-network is."""
        return self.learning_rates.device

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
        for layer, (keys, gradients) in record.items():
            network = self.networks[self._network_of[layer][0]]
            assert isinstance(network, HyperNetwork)
            network.observe(keys, gradients)
