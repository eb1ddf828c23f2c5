"""Files over HTTP, received in as many pieces as it takes."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from ssl import SSLContext
from urllib.parse import urlsplit

import httpx2

from malmen.support.progress import Progress

__all__ = ["TIMEOUT", "receive"]

TIMEOUT = 30.0
"""Seconds without an answer, or without another piece of it."""

_WORTH_SHOWING = 2**22  # bytes; what is smaller has arrived before anyone looks


def receive(url: str, path: Path, *, headers: Mapping[str, str] | None = None) -> None:
    """Write the content of an address to a file, going on after what is there already.

    The file keeps what has arrived when the connection breaks. Whether its parts belong together,
    only the digest of the whole can tell.

    Raises:
        HTTPError: of httpx2: no connection, a broken one, or a status that means failure.
    """
    begun = path.stat().st_size if path.exists() else 0
    asked = {"Accept-Encoding": "identity"}  # so that a range counts the bytes of the file
    if begun:
        asked["Range"] = f"bytes={begun}-"
    with httpx2.stream(
        "GET",
        url,
        headers={**(headers or {}), **asked},
        follow_redirects=True,
        timeout=TIMEOUT,
        verify=_tls(),
    ) as response:
        if response.status_code == 416:  # what is there is no beginning of the content
            path.unlink()
            raise httpx2.RemoteProtocolError("the file has become shorter; it is fetched anew")
        response.raise_for_status()
        if not response.headers.get("Content-Range", "").startswith(f"bytes {begun}-"):
            begun = 0  # the server sends all of it
        total = begun + int(response.headers.get("Content-Length", 0))
        stage = f"{path.name.partition('@')[0]} from {urlsplit(url).netloc}"
        shown = total >= _WORTH_SHOWING
        with (
            path.open("ab" if begun else "wb") as file,
            Progress(stage, total=total, unit="bytes", done=begun, show=shown) as progress,
        ):
            for piece in response.iter_bytes():
                file.write(piece)
                progress.update(len(piece))


@cache
def _tls() -> SSLContext:
    """Read the certificates once: it takes longer than a small file."""
    return httpx2.create_ssl_context()
