"""The catalogue of language models, read from ``catalogue.yaml``."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from malmen.errors import InputError

__all__ = ["Entry", "Package", "catalogue", "lookup"]


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
    rows: Literal["zsre", "fever"] = "zsre"
    blocks: str = ""
    edited: str = ""
    layers: tuple[int, ...] = ()
    cached: Literal["ans", "all"] = "ans"

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the edited modules, lowest block first."""
        return tuple(f"{self.blocks}.{i}.{self.edited}" for i in sorted(self.layers))

    @property
    def origin(self) -> str:
        """Name of the language model whose weights arrived from outside."""
        return self.base or self.name

    @property
    def first_edited_block(self) -> int:
        """Index of the lowest edited block; everything below it is frozen."""
        return min(self.layers)


@cache
def catalogue() -> Mapping[str, Entry]:
    """Return every language model by name."""
    text = resources.files("malmen").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return {name: _entry(name, fields) for name, fields in yaml.safe_load(text).items()}


def lookup(name: str) -> Entry:
    """Return one language model.

    Raises:
        InputError: no such language model; the message lists the choices.
    """
    if name not in catalogue():
        raise InputError(f"unknown language model {name!r}; choose from {', '.join(catalogue())}")
    return catalogue()[name]


def _entry(name: str, fields: dict[str, Any]) -> Entry:
    package = Package(**fields.pop("package")) if "package" in fields else None
    layers = tuple(fields.pop("layers", ()))
    return Entry(name=name, package=package, layers=layers, **fields)
