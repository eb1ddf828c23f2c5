"""Hyper-parameters of the published work, and the trials of a search, which they are among."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import product
from typing import Any

import yaml

__all__ = ["published_settings", "trials"]


@cache
def published_settings() -> dict[str, Any]:
    """Return the published hyper-parameters, as `published_settings.yaml` explains them."""
    file = resources.files(__package__) / "published_settings.yaml"
    published: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return published


def trials(editor: str, grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the trials of a search: what is published for the settings searched, then the grid.

    A trial holds the settings that it changes. The published ones come once, if the grid holds them
    too.
    """
    values = published_settings().get(editor, {"values": {}})["values"]
    published = {key: values[key] for key in grid if key in values}
    found = [published] if len(published) == len(grid) else []
    found += [dict(zip(grid, combination, strict=True)) for combination in product(*grid.values())]
    return [trial for index, trial in enumerate(found) if trial not in found[:index]]
