"""The catalogue of language models, read from ``catalogue.yaml``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

import bracex
import yaml

from malmen.errors import InputError

__all__ = ["Entry", "Modules", "Package", "catalogue", "lookup", "paper_models"]

Modules = Literal["edited", "alternative", "memit"]
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
class Entry:
    """One language model; the fields are explained at the top of ``catalogue.yaml``."""

    name: str
    title: str
    package: Package | None = None
    base: str | None = None
    built: Mapping[str, Any] | None = None
    rows: Literal["zsre", "fever"] = "zsre"
    figure: str | None = None
    stands_for: str | None = None
    blocks: str = ""
    frozen: int = 0
    edited: tuple[str, ...] = ()
    alternative: tuple[str, ...] = ()
    memit: tuple[str, ...] = ()

    @property
    def origin(self) -> str | None:
        """Name of the language model whose weights arrived from outside; None if none did."""
        return None if self.built else self.base or self.name

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
    return _read("catalogue.yaml")


@cache
def paper_models() -> Mapping[str, Entry]:
    """Return the paper's language models by name: shapes to draw, without weights."""
    return _read("paper_models.yaml")


def lookup(name: str) -> Entry:
    """Return one language model.

    Raises:
        InputError: no such language model; the message lists the choices.
    """
    if name not in catalogue():
        raise InputError(f"unknown language model {name!r}; choose from {', '.join(catalogue())}")
    return catalogue()[name]


def _read(file: str) -> dict[str, Entry]:
    source = resources.files("malmen.models").joinpath(file)
    text = source.read_text(encoding="utf-8")
    return {name: _entry(name, fields) for name, fields in yaml.safe_load(text).items()}


def _entry(name: str, fields: dict[str, Any]) -> Entry:
    package = Package(**fields.pop("package")) if "package" in fields else None
    modules: dict[str, Any] = {
        key: tuple(module for pattern in fields.pop(key) for module in bracex.iexpand(pattern))
        for key in get_args(Modules)
        if key in fields
    }
    return Entry(name=name, package=package, **modules, **fields)
