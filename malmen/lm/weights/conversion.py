"""Weights in any form that transformers reads, converted to a model folder of the suite."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer

from malmen.lm.catalogue import Entry
from malmen.lm.model_tree import auto_class
from malmen.lm.open_catalogue import completed
from malmen.support.errors import InputError

__all__ = ["convert"]

SHARD = "4GB"  # of a file of weights, at most


def convert(entry: Entry, source: Path, target: Path) -> None:
    """Write the model as transformers does, in safetensors and the dtype of the catalogue.

    Raises:
        InputError: the weights do not fit the architecture, or cannot be edited.
    """
    kind = auto_class(completed(entry, source), AutoConfig.from_pretrained(source))
    model, report = kind.from_pretrained(
        source,
        dtype=getattr(torch, entry.dtype),
        weights_only=True,  # of a .bin: no object but tensors is unpickled
        output_loading_info=True,
    )
    if lacking := sorted({*report["missing_keys"], *report["mismatched_keys"]}):
        others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(
            f"{source}: the weights lack {lacking[0]}{others}, which {entry.title} has "
            "(see malmen/lm/catalogue.yaml)"
        )
    model.save_pretrained(target, max_shard_size=SHARD)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
