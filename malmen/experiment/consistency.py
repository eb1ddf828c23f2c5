"""A configuration is checked before anything runs: every part, then that the parts fit together."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from malmen.data.downloads.table import PREFIX, sources
from malmen.experiment.configuration import Configuration, LanguageModel
from malmen.experiment.published_settings import trials
from malmen.lm.catalogue import lookup
from malmen.lm.open_catalogue import FETCHED
from malmen.support.checked import problems
from malmen.support.errors import InputError, choices

__all__ = ["check"]


def check(config: Mapping[str, Any]) -> None:
    """Accept a complete configuration, or name everything that is wrong with it.

    Args:
        config: the configuration, overlays merged.

    Raises:
        InputError: one line a problem: the path of the key, what is wrong, what would be right.
    """
    whole = cast(Configuration, config)
    # Each comparison relies on what those before it have found to be right.
    found = problems(Configuration, config) or [*_missing(whole)] or [*_misfits(whole)]
    if found:
        raise InputError("\n".join(f"configuration: {problem}" for problem in found))


def _missing(config: Configuration) -> Iterator[str]:
    """Name the language models that are used and have no section."""
    used = {f"run.language_models[{i}]": n for i, n in enumerate(config["run"]["language_models"])}
    used["ablations.language_model"] = config["ablations"]["language_model"]
    used["memory.language_model"] = config["memory"]["language_model"]
    used["answers.language_model"] = config["answers"]["language_model"]
    for where, name in used.items():
        if name not in config["language_models"]:
            yield (
                f"{where}: {name} has no section under language_models (config/paper.yaml has "
                "those of the paper's language models)"
            )


def _misfits(config: Configuration) -> Iterator[str]:
    names, models = config["run"]["language_models"], config["language_models"]
    if config["scale"] == "reference":
        yield "scale: results/reference holds what runs are compared with; take another name"
    yield from _unknown_yet(names)
    yield from _figures(names)
    for name in names:
        yield from _language_model(f"language_models.{name}", models[name])
        yield from _search_fits(config, name)
    yield from _answers(config)
    yield from _equal_budgets(config["search"]["grid"])
    yield from _ablations(config)
    memory = config["memory"]
    yield from _ascending("memory.edits", memory["edits"])
    yield from _fits("memory.edits", max(memory["edits"]), models[memory["language_model"]])


def _unknown_yet(names: Sequence[str]) -> Iterator[str]:
    """Name the language models whose architecture is not here to be read."""
    for name in names:
        if lookup(name).is_open:
            yield (
                f"language_models.{name}: what is edited of it is known once its weights are here: "
                f"malmen fetch --catalogue FILE --lm {name} --downloads resources/downloads "
                f"--out {FETCHED / name}"
            )


def _figures(names: Sequence[str]) -> Iterator[str]:
    drawn: dict[str, str] = {}
    for name in names:
        other = drawn.setdefault(lookup(name).figure or name, name)
        if other != name:
            yield f"run.language_models: {other} and {name} are the same figure (run one of them)"


def _language_model(where: str, settings: LanguageModel) -> Iterator[str]:
    counts = _trained_at(settings)
    yield from _ascending(f"{where}.edits", settings["edits"])
    yield from _ascending(f"{where}.training", counts)
    edits, sets = max(settings["edits"]), settings["sets"]
    yield from _fits(f"{where}.edits", edits, settings, split="evaluation", sets=sets)
    yield from _fits(f"{where}.training", max(counts), settings)
    for count in settings.get("edited_by", []):
        if count not in counts:
            yield (
                f"{where}.edited_by: {count} is not a count that is trained at "
                f"(choices: {', '.join(map(str, counts))})"
            )
    found: Mapping[str, Any] = settings.get("sources", {})
    for split, source in found.items():
        for path in source["files"]:
            yield from _source_file(f"{where}.sources.{split}.files", path)
        if "unrelated" in source:
            yield from _source_file(f"{where}.sources.{split}.unrelated", source["unrelated"])


def _trained_at(settings: LanguageModel) -> list[int]:
    return [stage["edits"] for stage in settings["training"]]


def _source_file(where: str, path: str) -> Iterator[str]:
    if path.startswith(PREFIX):
        name = path.removeprefix(PREFIX)
        if name not in sources():
            known = choices(name, list(sources()))
            yield f"{where}: nothing to download by the name {name!r} {known}"
    elif not Path(path).is_file():
        yield f"{where}: no such file: {path}"


def _ascending(where: str, counts: Sequence[int]) -> Iterator[str]:
    for low, high in pairwise(counts):
        if low >= high:
            yield f"{where}: counts must ascend, but {high} follows {low}"


def _fits(
    where: str, edits: int, settings: LanguageModel, *, split: str = "train", sets: int = 1
) -> Iterator[str]:
    rows: Mapping[str, Any] = settings["rows"]
    if edits * sets > rows[split]:
        need = f"{edits} edits{f' in {sets} disjoint sets' if sets > 1 else ''} need {edits * sets}"
        yield (
            f"{where}: {need} rows, but rows.{split} is {rows[split]} "
            f"(lower the count{' or the sets' if sets > 1 else ''}, or raise rows.{split})"
        )


def _search_fits(config: Configuration, lm: str) -> Iterator[str]:
    edits, sets = config["search"]["edits"], config["search"]["sets"]
    pool = config["language_models"][lm]["rows"]["validation"]
    if edits * sets > pool:
        yield (
            f"search: {edits} edits in {sets} disjoint sets need {edits * sets} rows, "
            f"but language_models.{lm}.rows.validation is {pool} (lower search.edits or "
            "search.sets, or raise the rows)"
        )


def _answers(config: Configuration) -> Iterator[str]:
    name, edits = config["answers"]["language_model"], config["answers"]["edits"]
    counts = _trained_at(config["language_models"][name])
    if edits not in counts:
        yield (
            f"answers.edits: {edits} is not a count that {name} is trained at "
            f"(choices: {', '.join(map(str, counts))})"
        )


def _equal_budgets(grids: Mapping[str, Mapping[str, Sequence[Any]]]) -> Iterator[str]:
    numbers = {editor: len(trials(editor, grid)) for editor, grid in grids.items()}
    if len(set(numbers.values())) > 1:
        counts = ", ".join(f"{editor} {number}" for editor, number in numbers.items())
        yield f"search.grid: every editor must get as many trials as the others, but: {counts}"


def _ablations(config: Configuration) -> Iterator[str]:
    name = config["ablations"]["language_model"]
    settings = config["language_models"][name]
    # At other counts MALMEN would be one trained at more edits than any variant.
    counts = [count for count in settings["edits"] if count in _trained_at(settings)]
    for count in config["ablations"]["edits"]:
        if count not in counts:
            yield (
                f"ablations.edits: {count} is not a count that {name} is trained and evaluated at "
                f"(choices: {', '.join(map(str, counts))})"
            )
