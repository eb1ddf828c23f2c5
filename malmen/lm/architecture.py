"""What is edited of a language model, derived from its architecture.

Only the configuration is read: the model is built without holding a weight, and its feed-forwards
are found by their structure, not by the names that each family of models gives them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from malmen.data.rows import Task
from malmen.lm.catalogue import Entry
from malmen.lm.kinds import Decoder, kind_of
from malmen.lm.model_tree import leaf, stacks
from malmen.support.errors import InputError

__all__ = ["derive"]

EDITED_SHARE = 4
"""One in so many blocks, the uppermost ones, is edited."""


@dataclass(frozen=True)
class _FeedForward:
    """Paths of a block's last linear layer, which hands hidden states on, and of its first."""

    last: str
    first: str


def derive(config: PreTrainedConfig, *, name: str) -> Entry:
    """Derive what is edited: feed-forwards' last layers in the uppermost quarter of the blocks.

    The ablation edits the first layers of the same feed-forwards instead (of gated ones, those
    that are not gated), and MEMIT the last layers at that depth of a decoder which its authors
    chose for GPT-J.

    Args:
        config: of a model of transformers.
        name: of the language model.

    Returns:
        An entry of the catalogue, as far as the architecture decides it.

    Raises:
        InputError: it cannot be edited; the message says why.
    """
    try:
        return _entry(config, name)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _entry(config: PreTrainedConfig, name: str) -> Entry:
    if getattr(config, "quantization_config", None):
        raise InputError(
            "its weights are quantised, and an edit adds a shift to plain ones; give a copy in "
            "float32, bfloat16 or float16"
        )
    task = _task(config)
    kind = kind_of(task, config)
    with torch.device("meta"):
        model: PreTrainedModel = kind.auto_class.from_config(config)
    lists = _lists_of_blocks(model)
    edited: list[_FeedForward] = []
    memit: list[_FeedForward] = []
    for path, blocks in lists.items():
        found = [_feed_forward(f"{path}.{i}", b, config.hidden_size) for i, b in enumerate(blocks)]
        edited += found[_first_edited(blocks) :]
        if isinstance(kind, Decoder):
            memit += [found[index] for index in _depth_of_memit(len(blocks))]
    path, blocks = next(iter(lists.items()))
    entry = Entry(
        name=name,
        title=name,
        task=task,
        blocks=path,
        frozen=_first_edited(blocks),
        edited=tuple(one.last for one in edited),
        alternative=tuple(one.first for one in edited),
        memit=tuple(one.last for one in memit),
    )
    _check_untied(model, (*entry.edited, *entry.alternative, *entry.memit))
    return entry


def _task(config: PreTrainedConfig) -> Task:
    """Return what the head does with a prompt."""
    heads = config.architectures or []
    if any(head.endswith("ForSequenceClassification") for head in heads):
        if config.num_labels != 1:
            raise InputError(
                f"a fact checker has one logit a claim, and this classifier has {config.num_labels}"
            )
        return "verdict"
    completes = any("ForCausalLM" in head or "LMHead" in head for head in heads)
    if not completes and not config.is_encoder_decoder:
        raise InputError(
            f"{', '.join(heads) or 'a model without a head'} neither continues a prompt nor judges "
            "a claim; fine-tune it first, to a classifier with one logit"
        )
    return "completion"


def _lists_of_blocks(model: PreTrainedModel) -> Mapping[str, nn.ModuleList]:
    """Return the longest list of transformer blocks, of an encoder-decoder both sides'."""
    found = {path: blocks for path, blocks in stacks(model).items() if _is_of_blocks(blocks)}
    if not found:
        raise InputError(
            f"{type(model).__name__} has no list of alike blocks that hold attention and a "
            "feed-forward"
        )
    sides = 2 if model.config.is_encoder_decoder else 1
    longest = sorted(found, key=lambda path: -len(found[path]))[:sides]
    lists = {path: blocks for path, blocks in found.items() if path in longest}
    for path, blocks in lists.items():
        _check_own(path, blocks, model)
        _check_dense(path, blocks)
    return lists


def _is_of_blocks(blocks: nn.ModuleList) -> bool:
    alike = len({type(block) for block in blocks}) == 1
    return alike and any(_is_attention(module) for module in blocks[-1].modules())


def _is_attention(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__


def _check_own(path: str, blocks: nn.ModuleList, model: PreTrainedModel) -> None:
    """Refuse blocks that run several times: an edit of one would be an edit of all."""
    own = len({id(block) for block in blocks})
    runs = 0 if model.config.is_encoder_decoder else model.config.num_hidden_layers
    if own < max(runs, len(blocks)):
        raise InputError(
            f"its {max(runs, len(blocks))} layers share the weights of {own} in {path}, so that "
            "none can be edited alone"
        )


def _check_dense(path: str, blocks: nn.ModuleList) -> None:
    """Refuse a mixture of experts: a token's key would belong to the experts it was sent to."""
    for inside, module in blocks.named_modules():
        if "Expert" in type(module).__name__ or inside.endswith(".experts"):
            raise InputError(
                f"{path}.{inside} is a mixture of experts; only feed-forwards that every token "
                "runs through can be edited"
            )


def _feed_forward(path: str, block: nn.Module, hidden: int) -> _FeedForward:
    """Find a block's feed-forward: outside attention, from hidden size to an inner one and back.

    Of several the widest is meant. Its first layer may compute a gate in the same product; of a
    separate gate and the layer that it gates, the latter comes after.
    """
    attention = tuple(f"{inside}." for inside, m in block.named_modules() if _is_attention(m))
    linear = [
        leaf(f"{path}.{inside}", module)
        for inside, module in block.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not inside.startswith(attention)
    ]
    pairs = [
        (last.inputs, _FeedForward(last.name, first.name))
        for at, last in enumerate(linear)
        for first in linear[:at]
        if last.outputs == first.inputs == hidden
        and first.outputs in (last.inputs, 2 * last.inputs)
    ]
    if not pairs:
        raise InputError(
            f"{path} has no feed-forward of linear layers from {hidden} features to an inner size "
            "and back"
        )
    widest = max(inner for inner, _ in pairs)
    return [pair for inner, pair in pairs if inner == widest][-1]


def _check_untied(model: nn.Module, layers: Sequence[str]) -> None:
    """Refuse a layer whose weight is another's as well."""
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for layer in layers:
        if uses[id(model.get_submodule(layer).weight)] > 1:
            raise InputError(f"the weight of {layer} is tied to another module's")


def _first_edited(blocks: nn.ModuleList) -> int:
    return len(blocks) - max(1, len(blocks) // EDITED_SHARE)


def _depth_of_memit(blocks: int) -> range:
    """Return the blocks that lie as deep as 3 to 8 of GPT-J's 28."""
    return range(blocks // 9, blocks * 3 // 10 + 1)
