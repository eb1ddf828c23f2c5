"""Weights from the Hugging Face hub, kept as safetensors.

Only weights, configuration and tokenizer are downloaded, never code.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from malmen.lm.catalogue import Entry
from malmen.lm.weights.conversion import install
from malmen.support.errors import InputError
from malmen.support.files import sha256
from malmen.support.hub_files import HubFile, Listing, Repository, download, list_files, part_of
from malmen.support.retries import FAILURES, cause

__all__ = ["fetch"]

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
            file is not what its commit says, the weights do not fit the architecture, the disk
            is too small, or a library that reads the tokenizer is not installed.
    """
    if entry.hub is None:
        raise InputError(f"{entry.name} is not on a hub; see malmen/lm/catalogue.yaml")
    repository = Repository(name=entry.hub.repository, revision=entry.hub.revision)
    folder = downloads / entry.name
    try:
        listing = list_files(repository)
        files = _chosen(repository, listing)
        _check_disk(folder, listing, files)
        download(repository, listing.commit, files, folder)
    except FAILURES as error:
        raise InputError(
            f"could not download {entry.name} from {repository}: {cause(error)}; what has arrived "
            f"is kept in {folder}: run again, set HF_ENDPOINT to a mirror of the hub, put the "
            f"repository's files into {folder} by hand, or copy {out} from a machine where "
            f"`malmen fetch` made it"
        ) from error
    origin = {
        "licence": entry.hub.licence,
        "repository": repository.name,
        "revision": repository.revision,
        "commit": listing.commit,
        "downloaded": {file.name: sha256(folder / file.name) for file in files},
    }
    install(entry, folder, out=out, origin=origin)
    shutil.rmtree(folder)


def _chosen(repository: Repository, listing: Listing) -> list[HubFile]:
    """Return the files to download: description and weights, safetensors where there are any."""
    for pattern in WEIGHTS:
        if weights := [file for file in listing.files if pattern.fullmatch(file.name)]:
            return weights + [file for file in listing.files if DESCRIPTION.fullmatch(file.name)]
    raise InputError(f"{repository} holds no weights of PyTorch")


def _check_disk(folder: Path, listing: Listing, files: Sequence[HubFile]) -> None:
    """Refuse to begin what the disk cannot hold: the files, and as much again converted."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / file.name for file in files]
    paths += [part_of(path, listing.commit) for path in paths]
    there = sum(path.stat().st_size for path in paths if path.exists())
    needed = 2 * sum(file.size for file in files) - there
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: {needed / 1e9:.1f} GB are needed to download and convert the weights, and "
            f"{free / 1e9:.1f} GB are free (make room)"
        )
