"""The catalogue of language models: ``catalogue.yaml``, and the files that a user adds.

The environment variable MALMEN_CATALOGUE names those files, so that every command that a run starts
knows the same language models.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import bracex
import yaml

from malmen.data.rows import Task
from malmen.support.errors import InputError

__all__ = [
    "Entry",
    "Hub",
    "Modules",
    "Package",
    "catalogue",
    "entry_of_fields",
    "lookup",
    "paper_models",
    "shipped",
    "use",
]

VARIABLE = "MALMEN_CATALOGUE"

Modules = Literal["edited", "alternative", "alternative_six", "memit"]
"""The choices of modules to edit that the catalogue gives."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package of the Python index that carries a model's weights."""

    name: str
    version: str
    sha256: str
    folder: str
    licence: str
    gguf: str | None = None


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A repository of the Hugging Face hub that holds a model's weights."""

    repository: str
    revision: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One language model; the fields are explained at the top of ``catalogue.yaml``."""

    name: str
    title: str
    credit: str = ""
    package: Package | None = None
    hub: Hub | None = None
    folder: str | None = None
    base: str | None = None
    built: Mapping[str, Any] | None = None
    published: Mapping[str, Any] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    task: Task = "completion"
    figure: str | None = None
    stands_for: str | None = None
    blocks: str = ""
    frozen: int = 0
    edited: tuple[str, ...] = ()
    alternative: tuple[str, ...] = ()
    alternative_six: tuple[str, ...] = ()
    memit: tuple[str, ...] = ()
    is_open: bool = False
    """Whether what it leaves out has yet to be derived from the architecture."""
    configuration: Mapping[str, Any] | None = None
    """That of a user's weights, in the words of transformers, as soon as they are here."""

    @property
    def is_fetched(self) -> bool:
        """Whether its weights arrive from outside as they are."""
        return bool(self.package or self.hub or self.folder)

    @property
    def origin(self) -> "Entry | None":
        """The language model whose weights arrived from outside; None if none did."""
        if self.built:
            return None
        return lookup(self.base) if self.base else self

    @property
    def attributions(self) -> list[str]:
        """Whose its weights are, with the licence; nothing if they are made here."""
        if self.origin is None:
            return []
        credit = self.origin.credit or self.origin.title
        if package := self.origin.package:
            return [f"{credit}, {package.licence}, through {package.name}"]
        return [f"{credit}, {hub.licence}"] if (hub := self.origin.hub) else [credit]

    def editing(self, modules: Modules) -> "Entry":
        """Return the entry with another choice of modules to edit.

        Raises:
            InputError: the catalogue names no such modules for it, or does not know them yet.
        """
        chosen: tuple[str, ...] = getattr(self, modules)
        if not chosen and self.is_open:
            raise InputError(
                f"{self.name}: what is edited of it is known once its weights are here: get them "
                "with `malmen fetch`"
            )
        if not chosen:
            raise InputError(f"{self.name}: the catalogue names no modules under {modules!r}")
        return replace(self, edited=chosen)


@cache
def catalogue() -> Mapping[str, Entry]:
    """Return every language model by name, those of the user's files last.

    Raises:
        InputError: a file is malformed, or names a language model that there is.
    """
    from malmen.lm.open_catalogue import read_catalogue

    entries = dict(shipped())
    for file in _files():
        for name, entry in read_catalogue(Path(file)).items():
            if name in entries:
                raise InputError(f"{file}: there is a language model {name!r} already")
            entries[name] = entry
    return entries


def use(files: Iterable[Path | str]) -> None:
    """Add files of language models, for this process and those that it starts.

    Raises:
        InputError: as of :func:`catalogue`; nothing is added then.
    """
    added = [str(Path(file).absolute()) for file in files]
    before = os.environ.get(VARIABLE, "")
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*_files(), *added]))
    catalogue.cache_clear()
    try:
        catalogue()
    except InputError:
        os.environ[VARIABLE] = before
        raise


def _files() -> list[str]:
    files = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [str(Path(file).absolute()) for file in files if file]  # one file, however it is named


@cache
def shipped() -> Mapping[str, Entry]:
    """Return the language models of ``catalogue.yaml`` by name."""
    source = resources.files("malmen.lm").joinpath("catalogue.yaml")
    text = source.read_text(encoding="utf-8")
    return {name: entry_of_fields(name, fields) for name, fields in yaml.safe_load(text).items()}


def paper_models() -> Mapping[str, Entry]:
    """Return the language models that the paper edits, by name; the shape of each is known."""
    return {name: entry for name, entry in catalogue().items() if entry.published}


def lookup(name: str) -> Entry:
    """Return one language model.

    Raises:
        InputError: no such language model; the message lists the choices.
    """
    if name not in catalogue():
        raise InputError(f"unknown language model {name!r}; choose from {', '.join(catalogue())}")
    return catalogue()[name]


def entry_of_fields(name: str, fields: dict[str, Any]) -> Entry:
    """Return the entry that a file writes so; patterns of modules are spelt out."""
    sources: dict[str, Any] = {
        key: kind(**fields.pop(key))
        for key, kind in (("package", Package), ("hub", Hub))
        if key in fields
    }
    modules: dict[str, Any] = {
        key: tuple(module for pattern in fields.pop(key) for module in bracex.iexpand(pattern))
        for key in get_args(Modules)
        if key in fields
    }
    return Entry(name=name, **sources, **modules, **fields)
