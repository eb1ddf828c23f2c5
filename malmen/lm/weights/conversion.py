"""Weights in any form that transformers reads, written as a model folder of the suite."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from malmen.lm.catalogue import Entry
from malmen.lm.model_tree import auto_class
from malmen.lm.open_catalogue import completed
from malmen.lm.weights.manifest import write_manifest
from malmen.support.errors import InputError
from malmen.support.files import atomic_folder, sha256

__all__ = ["convert", "copy", "install"]

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


def install(entry: Entry, source: Path, *, out: Path, origin: Mapping[str, Any]) -> None:
    """Convert a model to the folder ``out``, which appears complete or not at all.

    ``source.json`` beside the weights holds their origin and the digests of all files.

    Raises:
        InputError: as of :func:`convert`.
    """
    with atomic_folder(out) as made:
        convert(entry, source, made)
        write_manifest(made, {"title": entry.title, **origin})


def copy(entry: Entry, folder: Path, *, out: Path) -> None:
    """Install a model of this machine: later changes of its folder touch no results.

    Raises:
        InputError: no language model lies there, or as of :func:`convert`.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no language model there (config.json is missing)")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    digests = {path.name: sha256(path) for path in files}
    install(entry, folder, out=out, origin={"folder": str(folder.absolute()), "copied": digests})
