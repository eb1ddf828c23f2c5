"""Files that are either complete or absent, and digests of what they hold."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from malmen.support.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "atomic",
    "atomic_folder",
    "digest",
    "git_blob_id",
    "read_json",
    "read_safetensors",
    "read_yaml",
    "sha256",
    "write_json",
    "write_safetensors",
]

METADATA = "malmen"


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block succeeds.

    Readers, and a workflow that looks at what exists, see the old file or the whole new one and
    never a part. The temporary name keeps the suffix, since many writers choose a format by it.
    The folder is created where it is missing; what is half written is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        _follow_umask(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        made.mkdir()
        yield made
        for file in made.rglob("*"):
            if file.is_file():
                _follow_umask(file)
        if path.exists():
            shutil.rmtree(path)
        made.rename(path)


def _follow_umask(path: Path) -> None:
    """Let a file be read by whoever may: safetensors writes for its owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def digest(*content: Any) -> str:
    """Return a short hexadecimal digest of files (given as paths) and of JSON-like values."""
    state = hashlib.sha256()
    for item in content:
        if isinstance(item, Path):
            state.update(bytes.fromhex(sha256(item)))
        else:
            state.update(json.dumps(item, sort_keys=True).encode())
    return state.hexdigest()[:16]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_id(path: Path) -> str:
    """Return the name that git gives a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        header = b"blob %d\0" % os.fstat(file.fileno()).st_size
        state = hashlib.sha1(header, usedforsecurity=False)
        while piece := file.read(2**20):
            state.update(piece)
    return state.hexdigest()


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        InputError: The file is missing, or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        InputError: The file is missing, or is not YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({error})") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and programs to read, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_safetensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Any) -> None:
    """Write tensors and JSON-like metadata, whole or not at all; equal content, equal bytes."""
    from safetensors.torch import save_file

    # One entry: safetensors would write several in random order.
    with atomic(path) as temporary:
        save_file(dict(tensors), temporary, metadata={METADATA: json.dumps(metadata)})


def read_safetensors(path: Path) -> "tuple[dict[str, Tensor], Any]":
    """Return the tensors of a safetensors file, and its metadata if we wrote it.

    Raises:
        InputError: The file is missing, or is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file, or a damaged one ({error})") from error
