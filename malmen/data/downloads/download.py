"""Data files from whichever mirror has them: verified, whole or not at all.

Mirrors are tried in turn. What arrives has to have one of the digests that the table gives; it is
then kept in the folder of downloads, where a file supplied by hand is found as well. If no mirror
can be reached, rows are rebuilt from KILT where that is possible.
"""

import glob
import gzip
import logging
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from malmen.data.downloads import kilt
from malmen.data.downloads.mirrors import transfer
from malmen.data.downloads.table import PREFIX, Source, lookup, sources
from malmen.support.errors import InputError
from malmen.support.files import atomic, digest, git_blob_id, read_json, sha256, write_json
from malmen.support.retries import (
    FAILURES,
    CorruptedError,
    UnavailableError,
    cause,
    is_of_disk,
    persistently,
)

__all__ = ["download", "record_of"]

logger = logging.getLogger(__name__)

_POINTER = b"version https://git-lfs.github.com/spec/"


def download(
    name: str,
    *,
    downloads: Path,
    out: Path,
    table: Mapping[str, Source] | None = None,
) -> None:
    """Write a data file to ``out``, and beside it a record of where it came from.

    Args:
        name: name in the table.
        downloads: folder where downloads are kept, finished or not; a file that lies there under
            its name, gzipped or not, is taken instead.
        out: the file.
        table: data files by name; those of ``sources.yaml`` unless given.

    Raises:
        InputError: no such file in the table; no mirror has it, and it cannot be rebuilt; or the
            one supplied by hand is another.
    """
    table = sources() if table is None else table
    source = lookup(name, table)
    try:
        kept, origin = _obtain(source, downloads)
    except _NowhereError as error:
        if source.rebuild is None:
            raise
        origin = _rebuild(source, table, downloads=downloads, out=out, reason=error)
    else:
        with atomic(out) as temporary:
            shutil.copyfile(kept, temporary)
    about = {"what": source.what, "licence": source.licence, "sha256": sha256(out)}
    write_json(record_of(out), {"file": source.name, **origin, **about})
    logger.info("%s: %s; licence: %s", out, origin["from"], source.licence)


def record_of(path: Path) -> Path:
    """Return the path of the record beside a downloaded file."""
    return path.with_name(f"{path.name}.source.json")


class _NowhereError(InputError):
    """No mirror has the file."""


def _obtain(source: Source, downloads: Path) -> tuple[Path, dict[str, Any]]:
    """Return the verified file in the folder of downloads, and where it came from."""
    kept, failures = downloads / source.name, []
    downloads.mkdir(parents=True, exist_ok=True)
    with FileLock(downloads / f".{source.name}.lock"):  # several stand-ins come from one file
        if _is_there(source, kept):
            record = record_of(kept)
            return kept, read_json(record) if record.exists() else {"from": "supplied by hand"}
        for mirror in source.mirrors:
            try:
                _fetch(source, mirror, kept)
                _remove_pieces(kept)
                write_json(record_of(kept), {"from": mirror})
                return kept, {"from": mirror}
            except FAILURES as error:
                if is_of_disk(error):
                    raise
                failures.append(f"{mirror} ({cause(error)})")
                logger.warning("%s: not from %s: %s", source.name, mirror, cause(error))
    raise _NowhereError(_message(source, kept, failures))


def _is_there(source: Source, kept: Path) -> bool:
    """Tell whether the file is there already; unpack it if it is gzipped."""
    packed = kept.with_name(kept.name + ".gz")
    if kept.exists():
        _accept(source, kept, kept)
    elif packed.exists():
        with atomic(kept) as temporary:
            _unpack(packed, temporary)
            _accept(source, temporary, packed)
    return kept.exists()


def _unpack(packed: Path, target: Path) -> None:
    try:
        with gzip.open(packed) as file, target.open("wb") as plain:
            shutil.copyfileobj(file, plain)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{packed}: cannot be unpacked: {error} (supply it whole, or delete it)"
        ) from error


def _accept(source: Source, path: Path, supplied: Path) -> None:
    """Refuse a content that was supplied and is none of the file's versions."""
    if not source.versions and not record_of(supplied).exists():
        logger.warning("%s: taken as it is, since no digest of it is known", supplied)
    if found := _difference(source, path):
        raise InputError(
            f"{supplied}: {found} (delete it; or, to use it as it is, name its path in the "
            f"configuration instead of {PREFIX}{source.name})"
        )


def _fetch(source: Source, mirror: str, kept: Path) -> None:
    """Bring a file from a mirror under its name, once it is known to be the right one."""
    part = kept.with_name(f"{kept.name}@{digest(mirror)}")  # no two mirrors' pieces are joined

    def attempt() -> None:
        transfer(mirror, part)
        with part.open("rb") as file:
            is_pointer = file.read(len(_POINTER)) == _POINTER
        difference = _difference(source, part)
        if is_pointer or difference:
            part.unlink()
        if is_pointer:
            raise UnavailableError("a pointer of Git LFS instead of the file")
        if difference:
            raise CorruptedError(difference)

    persistently(attempt, what=mirror)
    part.replace(kept)


def _remove_pieces(kept: Path) -> None:
    """Remove what other attempts and mirrors have left of a file."""
    for piece in kept.parent.glob(f"{glob.escape(kept.name)}@*"):
        if piece.is_dir():
            shutil.rmtree(piece)
        else:
            piece.unlink()


def _difference(source: Source, path: Path) -> str | None:
    """Say in which way a file is none of the versions of the table; None if it is one."""
    found_sha256, found_blob = sha256(path), git_blob_id(path)
    for version in source.versions:
        if found_sha256 == version.sha256 or found_blob == version.git_blob:
            return None
    if not source.versions:  # on the hub, which has its own digests
        return None
    return f"its sha256 is {found_sha256}, its git blob {found_blob}: none that is known"


def _message(source: Source, kept: Path, failures: list[str]) -> str:
    known = " or ".join(map(str, source.versions))
    return (
        f"{source.name}: no mirror has it: {'; '.join(failures)}; put the file"
        f"{f' ({known})' if known else ''} at {kept} by hand and run again, or name the path of "
        f"a file of your own in the configuration instead of {PREFIX}{source.name}"
    )


def _rebuild(
    source: Source,
    table: Mapping[str, Source],
    *,
    downloads: Path,
    out: Path,
    reason: InputError,
) -> dict[str, Any]:
    """Write a stand-in that is made from KILT, and return what it was made from."""
    assert source.rebuild is not None
    logger.warning("%s: no mirror has it; a stand-in is made from KILT", source.name)
    try:
        facts, *others = (
            _first(names, table, downloads)
            for names in (source.rebuild.facts, source.rebuild.unrelated)
            if names
        )
    except _NowhereError as error:
        raise InputError(f"{reason}; nor can it be rebuilt: {error}") from error
    kilt.rebuild(facts, unrelated=others[0] if others else None, out=out)
    used = {path.name: sha256(path) for path in (facts, *others)}
    return {"from": "rebuilt from KILT, with rule-made paraphrases", "rebuilt_from": used}


def _first(names: Sequence[str], table: Mapping[str, Source], downloads: Path) -> Path:
    """Return the first of several files that can be had."""
    reasons = []
    for name in names:
        try:
            return _obtain(lookup(name, table), downloads)[0]
        except _NowhereError as error:
            reasons.append(str(error))
    raise _NowhereError("; ".join(reasons))
