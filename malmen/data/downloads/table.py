"""The table of data files that can be downloaded, read from ``sources.yaml``."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from malmen.support.errors import InputError

__all__ = ["PREFIX", "Rebuild", "Source", "Version", "lookup", "sources"]

PREFIX = "download:"
"""Before a name of the table, where the configuration could name the path of a file."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """Contents that count as a file: its SHA-256 or git's name for it, and who published that."""

    by: str
    sha256: str | None = None
    git_blob: str | None = None
    size: int | None = None

    def __str__(self) -> str:
        return f"sha256 {self.sha256}" if self.sha256 else f"git blob {self.git_blob}"


@dataclass(frozen=True, kw_only=True)
class Rebuild:
    """Files of KILT to make a stand-in from; of several, the first that can be had."""

    facts: tuple[str, ...]
    unrelated: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data file; the fields are explained at the top of ``sources.yaml``."""

    name: str
    what: str
    licence: str
    mirrors: tuple[str, ...]
    versions: tuple[Version, ...] = ()
    rebuild: Rebuild | None = None


@cache
def sources() -> Mapping[str, Source]:
    """Return every data file by name."""
    text = resources.files(__package__).joinpath("sources.yaml").read_text(encoding="utf-8")
    return {name: _source(name, **fields) for name, fields in yaml.safe_load(text).items()}


def lookup(name: str, table: Mapping[str, Source]) -> Source:
    """Return one data file.

    Raises:
        InputError: no such file; the message lists the choices.
    """
    if name not in table:
        raise InputError(f"unknown data file {name!r}; choose from {', '.join(table)}")
    return table[name]


def _source(
    name: str,
    *,
    mirrors: list[str],
    versions: list[dict[str, Any]] | None = None,
    rebuild: dict[str, list[str]] | None = None,
    **texts: str,
) -> Source:
    made = rebuild and Rebuild(**{key: tuple(names) for key, names in rebuild.items()})
    return Source(
        name=name,
        mirrors=tuple(mirrors),
        versions=tuple(Version(**fields) for fields in versions or ()),
        rebuild=made or None,
        **texts,
    )
