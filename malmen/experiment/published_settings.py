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
    text = (
        resources.files(__package__).joinpath("published_settings.yaml").read_text(encoding="utf-8")
    )
    published: dict[str, Any] = yaml.safe_load(text)
    return published


def trials(editor: str, grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the trials of a search: what is published for the settings searched, then the grid.

    Args:
        editor: name of the editor.
        grid: values to try by setting.

    Returns:
        The settings that each trial changes; the published ones once, if the grid holds them too.
    """
    values = published_settings().get(editor, {"values": {}})["values"]
    published = {key: values[key] for key in grid if key in values}
    found = [published] if len(published) == len(grid) else []
    found += [dict(zip(grid, combination, strict=True)) for combination in product(*grid.values())]
    return [trial for index, trial in enumerate(found) if trial not in found[:index]]
