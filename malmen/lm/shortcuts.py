"""The same results sooner: rewrites of a transformers model, each a function of its own.

None of them changes what a language model computes where an answer is predicted. What each buys is
told in ``docs/speed.md``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature

from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from malmen.lm.batches import Batch

__all__ = ["Reading", "cut_feed_forwards", "cut_head", "fuse_gelu"]


class Reading:
    """What is read of the run that is under way: without one, such as in generation, everything.

    Attributes:
        batch: the batch that runs, whose answers alone are read of the last block.
        is_whole: whether feed-forwards run on every token all the same.
    """

    batch: Batch | None = None
    is_whole: bool = False

    @contextmanager
    def of(self, batch: Batch, *, whole: bool) -> Iterator[None]:
        """Read a batch meanwhile."""
        self.batch, self.is_whole = batch, whole
        try:
            yield
        finally:
            self.batch = None


def cut_head(head: nn.Module, reading: Reading) -> None:
    """Let the language-model head see the answers alone."""

    def cut(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        if reading.batch is None:
            return None
        return (args[0].flatten(0, 1).index_select(0, reading.batch.answers),)

    head.register_forward_pre_hook(cut)


def cut_feed_forwards(blocks: nn.Module, reading: Reading) -> None:
    """Let feed-forwards, which work token by token, see what is read of their output alone.

    Nobody reads what any makes of padding, nor what the last block's makes of other tokens than
    answers. An encoder-decoder's are left as they are: its decoder has few tokens besides. So are
    those that read something besides the states, or that a block has no function for.
    """
    *_, last = blocks.children()
    for block in blocks.children():
        mlp = getattr(block, "mlp", None)
        for owner, name in ((mlp, "forward"), (block, "feed_forward_chunk")):
            function = getattr(owner, name, None)
            if function is not None and len(signature(function).parameters) == 1:
                setattr(owner, name, _cut(function, reading, is_last=block is last))


def _cut(
    function: Callable[[Tensor], Tensor], reading: Reading, *, is_last: bool
) -> Callable[[Tensor], Tensor]:
    """Return a function of states (b, t, h) that is zero where nobody reads it."""

    def run(states: Tensor) -> Tensor:
        if reading.batch is None or reading.is_whole:
            return function(states)
        every = states.flatten(0, 1)
        read = reading.batch.answers if is_last else reading.batch.tokens
        if len(read) == len(every):
            return function(states)
        part = function(every.index_select(0, read))
        output = part.new_zeros(len(every), part.shape[1]).index_copy(0, read, part)
        return output.view(*states.shape[:2], -1)

    return run


def fuse_gelu(model: nn.Module) -> None:
    """Compute the tanh form of GELU (of GPT-2, GPT-J and T5 v1.1) in one kernel instead of eight.

    It is the same function, in about a third of the time forward and backward on a CPU.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(parent, name, nn.GELU(approximate="tanh"))
