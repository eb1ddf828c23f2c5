"""Weights from the Hugging Face hub: every file verified, and kept as safetensors.

The hub's client takes any body of the right length for the file. Here each file is compared with
the digest that the commit records for it: SHA-256 of a large file, git's name for the content of a
small one. Only weights, configuration and tokenizer are downloaded, never code.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tenacity
import torch
from httpx2 import HTTPError, TransportError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer

from malmen.errors import InputError
from malmen.files import atomic_folder, git_blob_id, sha256
from malmen.models.catalogue import Entry, Hub
from malmen.models.manifest import write_manifest
from malmen.models.model_tree import auto_class
from malmen.progress import Progress

__all__ = ["fetch"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 6
WAIT = tenacity.wait_exponential_jitter(initial=1, max=60)  # seconds between attempts
SHARD = "4GB"  # of a file of weights, at most

DESCRIPTION = re.compile(
    r"(generation_)?config\.json|tokenizer(_config)?\.json|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.(json|txt)|merges\.txt|spiece\.model"
)
WEIGHTS = (  # the first kind that a repository has
    re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?"),
)


def fetch(entry: Entry, *, downloads: Path, out: Path) -> None:
    """Write a language model's folder (configuration, safetensors, tokenizer) to ``out``.

    The weights are converted once to the dtype of the catalogue. What was downloaded stays in
    ``downloads`` until that is done, so that a broken download goes on where it was.

    Args:
        entry: of the catalogue, with a repository of the hub.
        downloads: folder for the files as the hub has them.
        out: the model folder; it appears complete or not at all. ``source.json`` beside the
            weights holds the commit and the digests of all files.

    Raises:
        InputError: the catalogue names no repository, the hub or a file of it cannot be had, a
            file is not what its commit says, the weights do not fit the architecture, or the disk
            is too small.
    """
    if entry.hub is None:
        raise InputError(f"{entry.name} is not on a hub; see malmen/models/catalogue.yaml")
    folder = downloads / entry.name
    # The address is read now: the client would keep the one it saw when it was imported.
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    listing = _listing(api, entry.hub)
    files = _chosen(entry.hub, listing)
    _check_disk(folder, files)
    _download(api, entry, str(listing.sha), files, folder)
    source = {
        "title": entry.title,
        "licence": entry.hub.licence,
        "repository": entry.hub.repository,
        "revision": entry.hub.revision,
        "commit": listing.sha,
        "downloaded": {file.rfilename: sha256(folder / file.rfilename) for file in files},
    }
    with atomic_folder(out) as made:
        _convert(entry, folder, made)
        write_manifest(made, source)
    shutil.rmtree(folder)


class _CorruptedError(Exception):
    """A file arrived that is not the one of the commit."""


def _may_pass(error: BaseException) -> bool:
    """Tell whether trying again may help."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in (408, 429) or status >= 500
    return isinstance(error, TransportError | OSError | _CorruptedError)


def _persistently(action: Callable[[], T], hub: Hub, what: str) -> T:
    """Return what ``action`` returns, trying again where that may help, later each time.

    Raises:
        InputError: the last attempt failed as well, or none would help.
    """

    def report(state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        logger.warning("%s of %s: %s", what, hub.repository, state.outcome.exception())

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=WAIT,
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        before_sleep=report,
        reraise=True,
    )
    try:
        return retrying(action)
    except (HTTPError, OSError, _CorruptedError) as error:
        raise InputError(
            f"could not download {what} of {hub.repository} at {hub.revision}: {error}; what has "
            "arrived is kept, so run again, or set HF_ENDPOINT to a mirror"
        ) from error


def _listing(api: HfApi, hub: Hub) -> ModelInfo:
    """Return the repository's commit and its files with their digests."""

    def ask() -> ModelInfo:
        return api.model_info(hub.repository, revision=hub.revision, files_metadata=True)

    return _persistently(ask, hub, "the list of files")


def _chosen(hub: Hub, listing: ModelInfo) -> list[RepoSibling]:
    """Return the files to download: description and weights, safetensors where there are any."""
    files = listing.siblings or []
    for pattern in WEIGHTS:
        if weights := [file for file in files if pattern.fullmatch(file.rfilename)]:
            return weights + [file for file in files if DESCRIPTION.fullmatch(file.rfilename)]
    raise InputError(f"{hub.repository} at {hub.revision} holds no weights of PyTorch")


def _check_disk(folder: Path, files: Sequence[RepoSibling]) -> None:
    """Refuse to begin what the disk cannot hold: the files, and as much again converted."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(file.size or 0 for file in files)
    missing = sum(file.size or 0 for file in files if not (folder / file.rfilename).exists())
    free = shutil.disk_usage(folder).free
    if missing + total > free:
        raise InputError(
            f"{folder}: {(missing + total) / 1e9:.1f} GB are needed to download and convert the "
            f"weights, and {free / 1e9:.1f} GB are free: make room"
        )


def _download(
    api: HfApi, hub: Hub, commit: str, files: Sequence[RepoSibling], folder: Path
) -> None:
    """Download files into a folder; those that are there already are verified all the same."""
    total = sum(file.size or 0 for file in files)
    with Progress(f"download of {hub.repository}", total=total, unit="bytes") as progress:

        class Bar(tqdm):  # the hub draws a bar a file with it
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **{**options, "disable": True})

            def update(self, n: float | None = 1) -> None:
                progress.update(int(n or 0))

        for file in files:

            def get(file: RepoSibling = file) -> None:
                api.hf_hub_download(
                    hub.repository,
                    file.rfilename,
                    revision=commit,
                    local_dir=folder,
                    tqdm_class=Bar,
                )
                _verify(folder / file.rfilename, file)

            _persistently(get, hub, file.rfilename)


def _verify(path: Path, file: RepoSibling) -> None:
    """Delete a file that is not the one of the commit, and say so."""
    if file.lfs is not None:
        found, expected = sha256(path), file.lfs.sha256
    else:
        found, expected = git_blob_id(path), file.blob_id
    if found != expected:
        path.unlink()
        raise _CorruptedError(f"what arrived has the digest {found}, not {expected}")


def _convert(entry: Entry, source: Path, target: Path) -> None:
    """Write the model as transformers does, in safetensors and the dtype of the catalogue."""
    kind = auto_class(entry, AutoConfig.from_pretrained(source))
    model, report = kind.from_pretrained(
        source,
        dtype=getattr(torch, entry.dtype),
        weights_only=True,  # of a .bin: no object but tensors is unpickled
        output_loading_info=True,
    )
    if lacking := sorted({*report["missing_keys"], *report["mismatched_keys"]}):
        raise InputError(
            f"{source}: the weights of {entry.title} lack {lacking[0]} and {len(lacking) - 1} more "
            "that its architecture has"
        )
    model.save_pretrained(target, max_shard_size=SHARD)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
