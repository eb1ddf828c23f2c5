"""The blocks of a language model: which layer lies where, what goes in and what comes out."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from torch import Tensor, nn

from malmen.lm.batches import Batch
from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError

__all__ = [
    "BlockOutput",
    "StandIn",
    "block_of",
    "blocks_of",
    "inputs_of",
    "on_the_host",
    "outputs_of",
    "replaced_below",
    "run_through",
    "stopped_behind",
]


class BlockOutput:
    """What a block hands on: hidden states, alone or first in a tuple.

    Args:
        output: as the block returned it.
    """

    def __init__(self, output: Any) -> None:
        self.states: Tensor = output[0] if isinstance(output, tuple) else output
        self._rest: tuple[Any, ...] | None = output[1:] if isinstance(output, tuple) else None

    @property
    def arity(self) -> int:
        """Length of the tuple; 0 for states alone."""
        return 0 if self._rest is None else 1 + len(self._rest)

    def replaced(self, states: Tensor) -> Any:
        """Return other states in the form that the block returns them."""
        return states if self._rest is None else (states, *self._rest)


def blocks_of(lm: LanguageModel) -> nn.ModuleList:
    """Return the transformer blocks, lowest first."""
    blocks = lm.model.get_submodule(lm.entry.blocks)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def block_of(lm: LanguageModel, layer: str) -> int:
    """Return the index of the block that a layer lies in.

    Raises:
        InputError: it lies in none.
    """
    inside = layer.removeprefix(f"{lm.entry.blocks}.")
    index = inside.partition(".")[0]
    if inside == layer or not index.isdigit():
        raise InputError(f"{lm.entry.name}: {layer} lies in no block of {lm.entry.blocks}")
    return int(index)


@contextmanager
def inputs_of(lm: LanguageModel, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that holds what entered each of the edited ``layers`` last, (b·t, d)."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        inputs[name] = args[0].flatten(0, -2)

    with ExitStack() as stack:
        for name in layers:
            stack.enter_context(lm.layers[name].register_forward_hook(partial(keep, name)))
        yield inputs


def run_through(lm: LanguageModel, batch: Batch, block: int, *, whole: bool = True) -> BlockOutput:
    """Run the blocks up to this one, and none above; ``whole`` as of `LanguageModel.logits`."""
    with stopped_behind(lm, block) as outputs:
        lm.logits(batch, whole=whole)
    if not outputs:
        raise RuntimeError(f"{lm.entry.name}: its forward never ran the blocks {lm.entry.blocks}")
    return BlockOutput(outputs[0])


@contextmanager
def stopped_behind(lm: LanguageModel, block: int) -> Iterator[list[Any]]:
    """End a forward behind a block; yield a list of what the block handed on, as it returned it."""
    outputs: list[Any] = []

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output)
        raise _Reached

    with blocks_of(lm)[block].register_forward_hook(stop), suppress(_Reached):
        yield outputs


@contextmanager
def replaced_below(lm: LanguageModel, block: int, output: Any) -> Iterator[None]:
    """Let an output come from the blocks below one, as they would return it; none of them runs."""
    blocks = blocks_of(lm)
    originals = list(blocks[:block])
    stand_in = StandIn()
    stand_in.output = output
    try:
        for index in range(block):  # some models look up blocks by index
            blocks[index] = stand_in
        yield
    finally:
        for index, original in enumerate(originals):
            blocks[index] = original


@contextmanager
def outputs_of(lm: LanguageModel, block: int) -> Iterator[list[BlockOutput]]:
    """Yield a list that collects what a block hands on."""
    outputs: list[BlockOutput] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(BlockOutput(output))

    with blocks_of(lm)[block].register_forward_hook(keep):
        yield outputs


@contextmanager
def on_the_host(lm: LanguageModel, *, above: int) -> Iterator[None]:
    """Keep the blocks above one in the host's memory: nothing runs through them meanwhile."""
    blocks = blocks_of(lm)[above + 1 :]
    blocks.to("cpu")
    try:
        yield
    finally:
        blocks.to(lm.device)


class StandIn(nn.Module):
    """Stands in for blocks: whatever comes in, the output set before goes out."""

    def __init__(self) -> None:
        super().__init__()
        self.output: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output set before."""
        return self.output


class _Reached(Exception):
    """The block has run: nothing above it has to."""
