"""The record beside downloaded weights: where they came from, and the SHA-256 of every file.

It pins what a branch of a hub pointed to on the day of the download, and is checked whenever the
weights are used.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from malmen.support.errors import InputError
from malmen.support.files import read_json, sha256, write_json

__all__ = ["FILE", "verify", "write_manifest"]

FILE = "source.json"


def write_manifest(folder: Path, source: Mapping[str, Any]) -> None:
    """Record the origin of a model folder, and the SHA-256 of every file in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    write_json(folder / FILE, {**source, "sha256": digests})


def verify(folder: Path) -> None:
    """Accept a model folder that is as its record says; one that was made here has no record.

    Raises:
        InputError: a file is missing, or is not the one that was recorded.
    """
    if not (folder / FILE).exists():
        return
    for name, expected in read_json(folder / FILE)["sha256"].items():
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            raise InputError(
                f"{path}: not the file that was downloaded, whose sha256 is {expected}; delete "
                f"{folder} and fetch it again with `malmen fetch`"
            )
