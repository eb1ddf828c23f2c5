"""Weights from a folder of this machine, copied: later changes of the folder touch no results."""

from pathlib import Path

from malmen.lm.catalogue import Entry
from malmen.lm.weights.conversion import convert
from malmen.lm.weights.manifest import write_manifest
from malmen.support.errors import InputError
from malmen.support.files import atomic_folder, sha256

__all__ = ["fetch"]


def fetch(entry: Entry, *, out: Path) -> None:
    """Copy a language model's folder to ``out``, as safetensors in the dtype of the catalogue.

    Args:
        entry: of the catalogue, with a folder.
        out: the model folder; it appears complete or not at all. ``source.json`` beside the
            weights holds where they came from and the digests of all files.

    Raises:
        InputError: the catalogue names no folder, no language model lies there, or its weights do
            not fit the architecture.
    """
    if entry.folder is None:
        raise InputError(f"{entry.name} does not come from a folder")
    folder = Path(entry.folder)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no language model there (config.json is missing)")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    source = {
        "title": entry.title,
        "folder": str(folder.absolute()),
        "copied": {path.name: sha256(path) for path in files},
    }
    with atomic_folder(out) as made:
        convert(entry, folder, made)
        write_manifest(made, source)
