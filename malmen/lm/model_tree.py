"""The module tree of a language model, built from its configuration without holding a weight."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, groupby
from typing import Any

import pandas as pd
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from malmen.lm.catalogue import Entry
from malmen.lm.kinds import kind_of
from malmen.support.errors import InputError

__all__ = ["Leaf", "auto_class", "build", "leaf", "leaves", "module_table", "stacks"]


@dataclass(frozen=True)
class Leaf:
    """A module that holds parameters itself.

    Attributes:
        name: Its path in the model.
        kind: Its class.
        inputs: Size of its input; of an embedding, the number of rows.
        outputs: Size of its output.
        parameters: How many it holds.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    parameters: int


def build(entry: Entry) -> PreTrainedModel:
    """Return a model of the shape that an entry gives, on the meta device.

    Raises:
        InputError: the catalogue gives no shape for it.
    """
    shape = entry.published or entry.built or entry.configuration
    if shape is None:
        raise InputError(f"{entry.name}: the catalogue gives no configuration of it")
    config = AutoConfig.for_model(**{"decoder_start_token_id": 0, **shape})  # any: it has no words
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(entry, config).from_config(config)
    return model


def auto_class(entry: Entry, config: PreTrainedConfig) -> Any:
    """Return the class of transformers that loads a model with the head that its rows need."""
    if not entry.edited:  # an encoder to be fine-tuned
        return AutoModel
    return kind_of(entry.task, config).auto_class


def stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the lists of transformer blocks by name: those in no other list."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{o}.") for o in found):
            found[name] = module
    return found


def leaves(model: nn.Module) -> Iterator[Leaf]:
    """Yield every module that holds parameters itself; of tied embeddings, the first."""
    tables = set()
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        if isinstance(module, nn.Embedding):
            if id(module.weight) in tables:
                continue
            tables.add(id(module.weight))
        yield leaf(name, module)


def leaf(name: str, module: nn.Module) -> Leaf:
    """Describe a module that holds parameters itself."""
    shape = tuple(next(module.parameters(recurse=False)).shape)
    if len(shape) == 1:  # a normalisation keeps the size
        inputs = outputs = shape[0]
    elif isinstance(module, nn.Embedding | Conv1D):
        inputs, outputs = shape
    else:
        outputs, inputs = shape
    parameters = sum(p.numel() for p in module.parameters(recurse=False))
    return Leaf(name, type(module).__name__, inputs, outputs, parameters)


def module_table(entry: Entry, model: PreTrainedModel) -> pd.DataFrame:
    """List the modules of a model, equal ones of several blocks in one row.

    Returns:
        One row a module with the columns module (its block's number as "*"), type, inputs,
        outputs, parameters (of one copy), tied (its weight is another module's), blocks (such as
        "0-5"; empty outside the blocks), repeats, and edited, alternative and memit: whether the
        entry names it under these fields.
    """
    names = list(stacks(model))
    choices = {key: set(getattr(entry, key)) for key in ("edited", "alternative", "memit")}
    weights: set[int] = set()
    blocks: dict[tuple[Any, ...], list[int]] = {}
    for one in leaves(model):
        weight = id(next(model.get_submodule(one.name).parameters(recurse=False)))
        flags = [one.name in chosen for chosen in choices.values()]
        pattern, index = _in_block(one.name, names)
        sizes = (one.kind, one.inputs, one.outputs, one.parameters)
        blocks.setdefault((pattern, *sizes, weight in weights, *flags), []).extend(index)
        weights.add(weight)
    columns = ["module", "type", "inputs", "outputs", "parameters", "tied", *choices]
    table = pd.DataFrame(list(blocks), columns=columns)
    table.insert(6, "blocks", [ranges(indices) for indices in blocks.values()])
    table.insert(7, "repeats", [max(len(indices), 1) for indices in blocks.values()])
    return table


def _in_block(name: str, lists: Iterable[str]) -> tuple[str, list[int]]:
    """Return a module's name with "*" for its block's number, and that number if there is one."""
    if not any(name.startswith(f"{stack}.") for stack in lists):
        return name, []
    stack, index, rest = split_name(name)
    return f"{stack}.*.{rest}", [index]


def ranges(numbers: list[int]) -> str:
    """Return ascending numbers as ranges: "0-2, 5"."""
    counter = count()
    runs = [list(run) for _, run in groupby(numbers, key=lambda number: number - next(counter))]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def split_name(name: str) -> tuple[str, int, str]:
    """Split a module's name at its block's number: ("transformer.h", 6, "mlp.c_proj")."""
    words = name.split(".")
    at = next(i for i, word in enumerate(words) if word.isdigit())
    return ".".join(words[:at]), int(words[at]), ".".join(words[at + 1 :])
