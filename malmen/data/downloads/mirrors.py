"""How a file arrives from a mirror: over HTTP, from a folder of Google Drive, from the hub.

Every way writes to a file beside the final one. What fails is one of
:data:`malmen.support.retries.FAILURES`; nothing is verified here but what the hub says of its own
files.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from malmen.support import hub_files
from malmen.support.http import TIMEOUT, receive
from malmen.support.retries import UnavailableError

__all__ = ["transfer"]


def transfer(mirror: str, part: Path) -> None:
    """Bring the file of a mirror to ``part``, going on with what is there already.

    Args:
        mirror: its address, in one of the three forms of ``sources.yaml``.
        part: where the file goes; no other mirror's may be there.

    Raises:
        UnavailableError: the mirror has no such file.
        ValueError: the address has none of the three forms.
    """
    address = urlsplit(mirror)
    match address.scheme:
        case "http" | "https":
            receive(mirror, part)
        case "drive":
            _drive(address.netloc, address.path.strip("/"), part)
        case "hf":
            _hub(address.netloc + address.path, part)
        case _:
            raise ValueError(f"{mirror}: no such kind of mirror")


def _drive(folder: str, name: str, part: Path) -> None:
    try:
        import gdown  # here, because it is slow to load, and a light installation lacks it
        from gdown.exceptions import DownloadError
    except ModuleNotFoundError as error:
        raise UnavailableError("Google Drive needs gdown: pip install gdown") from error
    try:
        listed: Any = gdown.download_folder(
            id=folder, skip_download=True, quiet=True, use_cookies=False, timeout=TIMEOUT
        )
        ids = [file.id for file in listed if Path(file.path).name == name]
        if not ids:
            raise UnavailableError(f"no {name} in the folder")
        gdown.download(id=ids[0], output=str(part), quiet=True, use_cookies=False, timeout=TIMEOUT)
    except DownloadError as error:
        raise UnavailableError(f"Google Drive gives it to nobody: {error}") from error


_ON_HUB = re.compile(r"(?:(datasets)/)?([^/]+/[^/@]+)@([^/]+)/(.+)")


def _hub(address: str, part: Path) -> None:
    found = _ON_HUB.fullmatch(address)
    if found is None:
        raise ValueError(f"hf://{address}: not of the form hf://datasets/OWNER/NAME@REVISION/PATH")
    kind, name, revision, path = found.groups()
    repository = hub_files.Repository(
        name=name, revision=revision, kind="dataset" if kind else "model"
    )
    listing = hub_files.list_files(repository)
    files = [file for file in listing.files if file.name == path]
    if not files:
        raise UnavailableError(f"no {path} in {repository}")
    folder = part.with_name(part.name + ".hub")
    hub_files.download(repository, listing.commit, files, folder)
    (folder / path).replace(part)
