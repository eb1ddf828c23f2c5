"""The configuration of the workflow, checked before anything runs.

`config.schema.yaml` beside this module says which keys exist and what each may hold. `check` turns
every violation into one line that names the key and what it may be, and adds what a schema cannot
say: that the edit sets fit the rows, that counts ascend, that a search gives equal budgets.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from malmen.data.downloads.table import PREFIX, sources
from malmen.experiment.cards import Card, cards, find, trained
from malmen.experiment.published_settings import trials
from malmen.lm.catalogue import catalogue, lookup, shipped, use
from malmen.lm.open_catalogue import FETCHED
from malmen.support.errors import InputError, choices

SCHEMA = Path(__file__).with_name("config.schema.yaml")

_TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "a mapping of keys to values",
    "string": "text",
}


def check(config: Mapping[str, Any], *, schema: Path = SCHEMA) -> None:
    """Accept a complete configuration, or name everything that is wrong with it.

    Args:
        config: the configuration, overlays merged.
        schema: the JSON Schema (YAML) that it must satisfy.

    Raises:
        InputError: one line a problem: the path of the key, what is wrong, what would be right.
    """
    form = yaml.safe_load(schema.read_text(encoding="utf-8"))
    form = _with_models(form, config.get("models", []))
    validator = _Validator(_with_editors(form, _references(config)))
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.path)))
    # The checks of meaning may rely on the form, so they wait until the form is right.
    problems = [line for error in errors for line in _lines(error)] or list(_meaning(config))
    if problems:
        raise InputError("\n".join(f"configuration: {problem}" for problem in problems))


# --- the language models that files add -----------------------------------------------------------


def _with_models(schema: dict[str, Any], files: Any) -> dict[str, Any]:
    """Return the schema with the language models of a user's files, known from then on.

    Raises:
        InputError: A file is malformed, or a language model of it cannot be edited.
    """
    if files and isinstance(files, list):
        try:
            use(map(str, files))
        except InputError as error:
            raise InputError(f"configuration: models: {error}") from error
    kinds, top = schema["$defs"], schema["properties"]
    for name in catalogue().keys() - shipped().keys():
        kinds["language_model_name"]["enum"].append(name)
        top["language_models"]["properties"][name] = {"$ref": "#/$defs/language_model"}
        if lookup(name).task == "completion":
            top["answers"]["properties"]["language_model"]["enum"].append(name)
    return schema


def _unknown_yet(names: Sequence[str]) -> Iterator[str]:
    """Name the language models whose architecture is not here to be read."""
    for name in names:
        if lookup(name).is_open:
            yield (
                f"language_models.{name}: what is edited of it is known once its weights are here: "
                f"malmen fetch --catalogue FILE --lm {name} --downloads resources/downloads "
                f"--out {FETCHED / name}"
            )


# --- the editors: what the schema takes from their cards ----------------------------------------

_FORMS = {int: "integer", float: "number", bool: "boolean", str: "string"}


def _references(config: Mapping[str, Any]) -> list[str]:
    """Return the editors that are named by where their cards stand, which are known from then on.

    Raises:
        InputError: There is no card.
    """
    run = config.get("run")
    listed = run.get("editors") if isinstance(run, Mapping) else None
    named = listed if isinstance(listed, list) else []
    references = [one for one in named if isinstance(one, str) and ":" in one]
    for reference in references:
        try:
            find(reference)
        except InputError as error:
            raise InputError(f"configuration: run.editors: {error}") from error
    return references


def _with_editors(schema: dict[str, Any], references: Sequence[str]) -> dict[str, Any]:
    """Return the schema with the editors that there are, and a form for each one's sections.

    What the sections of the project's own editors may hold, the schema says itself.
    """
    kinds, top = schema["$defs"], schema["properties"]
    of_run, of_lm, of_search = (
        section["properties"]
        for section in (
            top["editors"],
            kinds["language_model"]["properties"]["editors"],
            top["search"]["properties"]["grid"],
        )
    )
    for card in cards():
        form = _section(card)
        of_run.setdefault(card.name, form)
        of_lm.setdefault(card.name, form)
        of_search.setdefault(card.name, _grid(form))
    kinds["editor_name"] = {"enum": list(of_run)}
    kinds["editor"] = {"enum": [*of_run, *references]}
    kinds["trained_editor"] = {"enum": list(trained())}
    return schema


def _section(card: Card) -> dict[str, Any]:
    """Return the form of an editor's hyper-parameters."""
    kinds = [kind for kind in (card.settings, card.training) if kind is not None]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            field.name: _form(get_type_hints(kind)[field.name])
            for kind in kinds
            for field in fields(kind)
        },
    }


def _grid(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form of the values to try, for a section of that form."""
    lists = {
        key: {"type": "array", "minItems": 1, "uniqueItems": True, "items": form}
        for key, form in section["properties"].items()
    }
    return {**section, "minProperties": 1, "properties": lists}


def _form(kind: Any) -> dict[str, Any]:
    """Return the form of a hyper-parameter; of a type that YAML has no word for, any."""
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    return {"type": _FORMS[kind]} if kind in _FORMS else {}


# --- the form: violations of the schema ----------------------------------------------------------


def _is_integer(_checker: object, value: object) -> bool:
    # JSON Schema takes 24.0 for an integer; an option of the command line does not.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(_checker: object, value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_finite}
    ),
)


def _lines(error: ValidationError) -> Iterator[str]:
    """Yield a line for each thing that a violation of the schema finds wrong."""
    where = _where(error.absolute_path)
    value: Any = error.instance
    rule: Any = error.validator_value
    match error.validator:
        case "additionalProperties":
            known = list(error.schema["properties"])  # type: ignore[index]
            for key in value:
                if key not in known:
                    yield f"{where}unknown key {key!r} {choices(key, known)}"
        case "required":
            # Each missing key is a violation of its own, but all share the list of required keys.
            key = next(key for key in rule if error.message.startswith(repr(key)))
            yield f"{where}key {key!r} is missing"
        case "enum":
            yield f"{where}unknown value {value!r} {choices(value, rule)}"
        case "type":
            yield f"{where}expected {_TYPES.get(rule, rule)}, got {value!r}{_point(value, rule)}"
        case "minimum":
            yield f"{where}must be at least {rule}, got {value!r}"
        case "exclusiveMinimum":
            yield f"{where}must be above {rule}, got {value!r}"
        case "minItems" | "minProperties" | "minLength":
            yield f"{where}must not be empty"
        case "uniqueItems":
            yield f"{where}holds a value twice: {value!r}"
        case _:
            yield f"{where}{error.message}"


def _where(path: Sequence[str | int]) -> str:
    """`language_models.smollm2.edits[2]: `, or nothing at the top."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{text.lstrip('.')}: " if text else ""


def _point(value: object, rule: str) -> str:
    """A remedy for YAML's trap: 1e-4 is text there, 1.0e-4 is a number."""
    if rule not in {"number", "integer"} or not isinstance(value, str):
        return ""
    try:
        float(value)
    except ValueError:
        return ""
    return " (YAML takes this for text: write it without quotes and with a point, as in 1.0e-4)"


# --- the meaning: what a schema cannot say -------------------------------------------------------


def _meaning(config: Mapping[str, Any]) -> Iterator[str]:
    yield from _sections(config) or _meaning_of_sections(config)


def _sections(config: Mapping[str, Any]) -> list[str]:
    """Name the language models that are used and have no section."""
    used = {f"run.language_models[{i}]": n for i, n in enumerate(config["run"]["language_models"])}
    used |= {
        f"{section}.language_model": config[section]["language_model"]
        for section in ("ablations", "memory", "answers")
    }
    return [
        f"{where}: {name} has no section under language_models (config/paper.yaml has those of "
        "the paper's language models)"
        for where, name in used.items()
        if name not in config["language_models"]
    ]


def _meaning_of_sections(config: Mapping[str, Any]) -> Iterator[str]:
    yield from _unknown_yet(config["run"]["language_models"])
    yield from _figures(config["run"]["language_models"])
    for name in config["run"]["language_models"]:
        settings = config["language_models"][name]
        yield from _language_model(f"language_models.{name}", settings)
        yield from _search_fits(config["search"], settings["rows"]["validation"], name)
    yield from _answers(config["answers"], config["language_models"])
    yield from _equal_budgets(config["search"]["grid"])
    yield from _ablations(config["ablations"], config["language_models"])
    yield from _memory(config["memory"], config["language_models"])


def _figures(names: Sequence[str]) -> Iterator[str]:
    drawn: dict[str, str] = {}
    for name in names:
        other = drawn.setdefault(lookup(name).figure or name, name)
        if other != name:
            yield f"run.language_models: {other} and {name} are the same figure (run one of them)"


def _language_model(where: str, settings: Mapping[str, Any]) -> Iterator[str]:
    rows, counts = settings["rows"], [stage["edits"] for stage in settings["training"]]
    yield from _ascending(f"{where}.edits", settings["edits"])
    yield from _ascending(f"{where}.training", counts)
    yield from _fits(
        f"{where}.edits", max(settings["edits"]), settings["sets"], rows["evaluation"], "evaluation"
    )
    yield from _fits(f"{where}.training", max(counts), 1, rows["train"], "train")
    for split, source in settings.get("sources", {}).items():
        for key in ("files", "unrelated"):
            paths = source.get(key, [])
            for path in [paths] if isinstance(paths, str) else paths:
                yield from _source_file(f"{where}.sources.{split}.{key}", path)


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


def _fits(where: str, edits: int, sets: int, pool: int, split: str) -> Iterator[str]:
    if edits * sets > pool:
        need = f"{edits} edits{f' in {sets} disjoint sets' if sets > 1 else ''} need {edits * sets}"
        yield (
            f"{where}: {need} rows, but rows.{split} is {pool} "
            f"(lower the count{' or the sets' if sets > 1 else ''}, or raise rows.{split})"
        )


def _answers(answers: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[str]:
    name = answers["language_model"]
    counts = [stage["edits"] for stage in models[name]["training"]]
    if answers["edits"] not in counts:
        yield (
            f"answers.edits: {answers['edits']} is not a count that {name} is trained at "
            f"(choices: {', '.join(map(str, counts))})"
        )


def _memory(memory: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[str]:
    yield from _ascending("memory.edits", memory["edits"])
    rows = models[memory["language_model"]]["rows"]
    yield from _fits("memory.edits", max(memory["edits"]), 1, rows["train"], "train")


def _search_fits(search: Mapping[str, Any], pool: int, lm: str) -> Iterator[str]:
    need = search["edits"] * search["sets"]
    if need > pool:
        yield (
            f"search: {search['edits']} edits in {search['sets']} disjoint sets need {need} rows, "
            f"but language_models.{lm}.rows.validation is {pool} (lower search.edits or "
            "search.sets, or raise the rows)"
        )


def _equal_budgets(grids: Mapping[str, Mapping[str, Sequence[Any]]]) -> Iterator[str]:
    numbers = {editor: len(trials(editor, grid)) for editor, grid in grids.items()}
    if len(set(numbers.values())) > 1:
        counts = ", ".join(f"{editor} {number}" for editor, number in numbers.items())
        yield f"search.grid: every editor must get as many trials as the others, but: {counts}"


def _ablations(ablations: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[str]:
    name = ablations["language_model"]
    trained = [stage["edits"] for stage in models[name]["training"]]
    # At other counts MALMEN would be one trained at more edits than any variant.
    counts = [count for count in models[name]["edits"] if count in trained]
    for count in ablations["edits"]:
        if count not in counts:
            yield (
                f"ablations.edits: {count} is not a count that {name} is trained and evaluated at "
                f"(choices: {', '.join(map(str, counts))})"
            )
