"""Language models that a user's file adds to the catalogue.

An entry needs a name and a source. Whatever it leaves out of what is edited is derived from the
architecture, as soon as the configuration of the weights is there to be read.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from malmen.lm.catalogue import Entry, Hub, Modules, Package, entry_of_fields
from malmen.support.errors import InputError, choices

__all__ = ["FETCHED", "completed", "read_catalogue"]

logger = logging.getLogger(__name__)

FETCHED = Path("resources/lm")
"""Where the workflow keeps weights that arrived from outside, a folder a language model."""

_SOURCES = ("folder", "hub", "package")
_DERIVED = ("blocks", "frozen", "edited", "alternative", "memit")
_KEYS = ("title", "credit", *_SOURCES, "dtype", "blocks", "frozen", *get_args(Modules))
_HUB = {"revision": "main", "licence": "licence as in the repository"}


def read_catalogue(path: Path) -> dict[str, Entry]:
    """Read a user's file of language models, what is left out derived where that is possible.

    Raises:
        InputError: the file is missing or malformed, or a language model in it cannot be edited.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path}: not a file of language models: {why}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected names of language models, and of each its source")
    return {name: _entry(f"{path}: {name}", name, given) for name, given in found.items()}


def completed(entry: Entry, folder: Path) -> Entry:
    """Return a user's entry with what it leaves out, as the model in ``folder`` has it.

    Entries that are shipped stay as they are, and so do all without a configuration there.

    Raises:
        InputError: the language model cannot be edited; the message says why.
    """
    if not entry.is_open or not (folder / "config.json").is_file():
        return entry
    from transformers import AutoConfig

    from malmen.lm.architecture import derive
    from malmen.lm.model_tree import split_name

    config = AutoConfig.from_pretrained(folder)
    found = derive(config, name=entry.name)
    left_out = {key: getattr(found, key) for key in _DERIVED if not getattr(entry, key)}
    whole = replace(
        entry, **left_out, task=found.task, is_open=False, configuration=config.to_dict()
    )
    if not entry.frozen:
        blocks = [split_name(layer) for layer in (*whole.edited, *whole.alternative)]
        lowest = min((index for path, index, _ in blocks if path == whole.blocks), default=0)
        whole = replace(whole, frozen=lowest)
    said = {key: getattr(whole, key) for key in ("task", *left_out)}
    logger.info(
        "%s: derived from its architecture: %s",
        entry.name,
        "; ".join(f"{key} {_in_words(value)}" for key, value in said.items()),
    )
    return whole


def _in_words(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)


def _entry(where: str, name: str, given: Any) -> Entry:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
        raise InputError(
            f"{where}: a name is of small letters, digits and _, as files are named so"
        )
    _check_keys(where, given, _KEYS)
    sources = [source for source in _SOURCES if given.get(source)]
    if len(sources) != 1:
        raise InputError(f"{where}: needs one source, a folder, a hub's repository or a package")
    given = {"title": name, "figure": name, **given}
    for kind, key, defaults in ((Hub, "hub", _HUB), (Package, "package", {})):
        if key in given:
            given[key] = _source(f"{where}: {key}", kind, given[key], defaults)
    entry = replace(entry_of_fields(name, given), is_open=True)
    return completed(entry, Path(entry.folder) if entry.folder else FETCHED / name)


def _source(
    where: str, kind: type[Hub] | type[Package], given: Any, defaults: Mapping[str, str]
) -> dict[str, Any]:
    known = fields(kind)
    _check_keys(where, given, [field.name for field in known])
    whole = {**defaults, **given}
    for field in known:
        if field.name not in whole and field.default is MISSING:
            raise InputError(f"{where}: key {field.name!r} is missing")
    return whole


def _check_keys(where: str, given: Any, known: Sequence[str]) -> None:
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected keys and values ({', '.join(known)})")
    for key in given:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r} {choices(key, known)}")
