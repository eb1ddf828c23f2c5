"""Files of the Hugging Face hub, every one verified.

The hub's client takes any body of the right length for the file. Here each file is compared with
the digest that the commit records for it: SHA-256 of a large file, git's name for the content of a
small one.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.utils import build_hf_headers

from malmen.support.files import git_blob_id, sha256
from malmen.support.http import receive
from malmen.support.retries import CorruptedError, persistently

__all__ = ["HubFile", "Listing", "Repository", "download", "list_files", "part_of"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository of the hub at one revision, which is a commit, a tag or a branch."""

    name: str
    revision: str
    kind: Literal["model", "dataset"] = "model"

    def __str__(self) -> str:
        folder = "datasets/" if self.kind == "dataset" else ""
        return f"{_endpoint()}/{folder}{self.name} at {self.revision}"


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file as its commit records it; the small ones have no ``sha256``."""

    name: str
    size: int
    git_blob: str | None
    sha256: str | None


@dataclass(frozen=True)
class Listing:
    """The files of a repository at the commit that its revision points to."""

    commit: str
    files: Sequence[HubFile]


def list_files(repository: Repository) -> Listing:
    """Return a repository's files with their digests.

    What fails is one of :data:`malmen.support.retries.FAILURES`.
    """
    ask: Any = partial(
        HfApi(endpoint=_endpoint()).repo_info,
        repository.name,
        repo_type=repository.kind,
        revision=repository.revision,
        files_metadata=True,
    )
    info = persistently(ask, what=f"list of files of {repository}")
    files = [
        HubFile(
            name=file.rfilename,
            size=file.size or 0,
            git_blob=file.blob_id,
            sha256=file.lfs.sha256 if file.lfs else None,
        )
        for file in info.siblings or []
    ]
    return Listing(info.sha, files)


def download(repository: Repository, commit: str, files: Sequence[HubFile], folder: Path) -> None:
    """Download files into a folder; those that are there already are verified all the same.

    A broken download goes on where it was; the hub's own client would begin again. What fails is
    one of :data:`malmen.support.retries.FAILURES`.
    """
    for file in files:
        path = folder / file.name
        part = part_of(path, commit)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if _is_of_commit(path, file):
                continue
            logger.warning("%s: removed, it is not the file of %s", path, repository)
            path.unlink()
        about = {"repo_type": repository.kind, "revision": commit, "endpoint": _endpoint()}
        url = hf_hub_url(repository.name, file.name, **about)
        persistently(partial(_receive, url, part, file), what=f"{file.name} of {repository}")
        part.replace(path)


def _receive(url: str, part: Path, file: HubFile) -> None:
    if not (part.exists() and part.stat().st_size == file.size):
        receive(url, part, headers=build_hf_headers())
    if not _is_of_commit(part, file):
        part.unlink()
        raise CorruptedError(f"what arrives from {url} is not the file of the commit")


def part_of(path: Path, commit: str) -> Path:
    """Return the path of a file while it is downloaded."""
    return path.with_name(f"{path.name}@{commit}")


def _endpoint() -> str:
    # Read now: the client would keep the address that it saw when it was imported.
    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def _is_of_commit(path: Path, file: HubFile) -> bool:
    if file.sha256:
        return sha256(path) == file.sha256
    return git_blob_id(path) == file.git_blob
