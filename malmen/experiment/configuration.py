"""The configuration: which keys there are, and what each may hold.

Hyper-parameters follow from the dataclasses of settings and, for editors, from their cards; choices
are the editors and the language models that are known when a configuration is read.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, Required, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    TypeAdapter,
)
from typing_extensions import TypedDict

from malmen.experiment.cards import Card, cards, find, trained
from malmen.lm.catalogue import Modules, catalogue, use
from malmen.lm.weights.settings import FactCheckerSettings, PretrainingSettings
from malmen.settings import HyperSettings
from malmen.support.checked import Count, form, json_schema, mapping, section
from malmen.support.errors import InputError, choices

__all__ = ["Configuration", "LanguageModel", "Search", "schema"]


# --- types whose choices are known when they are read --------------------------------------------


class OneOf:
    """Says of text which it may be: one of names or, where those may be found, a reference."""

    def __init__(
        self, names: Callable[[], Iterable[str]], *, found: Callable[[str], object] | None = None
    ) -> None:
        self.names, self.found = names, found

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> Any:
        return handler.generate_schema(Annotated[kind, AfterValidator(self._checked)])

    def __get_pydantic_json_schema__(self, _: Any, handler: GetJsonSchemaHandler) -> Any:
        listed = {"enum": list(self.names())}
        return {"anyOf": [listed, {"type": "string", "pattern": ":"}]} if self.found else listed

    def _checked(self, name: str) -> str:
        if self.found and ":" in name:
            self.found(name)
        elif name not in self.names():
            raise InputError(f"unknown value {name!r} {choices(name, list(self.names()))}")
        return name


class Keyed:
    """Says of a mapping which keys it has, each of which type."""

    def __init__(self, keys: Callable[[], Mapping[str, Any]], *, total: bool = False) -> None:
        self.keys, self.total = keys, total
        self._name = keys.__name__.strip("_").title().replace("_", "")
        self._made: tuple[Mapping[str, Any], TypeAdapter[Any]] | None = None

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> Any:
        return handler.generate_schema(Annotated[Any, PlainValidator(self._checked)])

    def __get_pydantic_json_schema__(self, _: Any, handler: GetJsonSchemaHandler) -> Any:
        return handler(self._adapter().core_schema)

    def _adapter(self) -> TypeAdapter[Any]:
        keys = self.keys()
        if self._made is None or self._made[0] != keys:
            self._made = keys, TypeAdapter(mapping(self._name, keys, total=self.total))
        return self._made[1]

    def _checked(self, value: object) -> object:
        # As JSON, whose lists pass for tuples where a setting is one.
        self._adapter().validate_json(json.dumps(value, default=str))
        return value


T = TypeVar("T")


def _distinct(values: list[T]) -> list[T]:
    if any(value in values[:index] for index, value in enumerate(values)):
        raise InputError(f"holds a value twice: {values!r}")
    return values


Distinct = Annotated[
    list[T], Field(json_schema_extra={"uniqueItems": True}), AfterValidator(_distinct)
]
Listed = Annotated[Distinct[T], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]  # files and rows of a table are named so


def _language_models() -> list[str]:
    return [name for name, entry in catalogue().items() if entry.edited or entry.is_open]


def _answering() -> list[str]:
    return [name for name in _language_models() if catalogue()[name].task == "completion"]


def _modules() -> list[str]:
    own = {card.modules for card in cards()}
    return [choice for choice in get_args(Modules) if choice not in own]


LanguageModelName = Annotated[str, OneOf(_language_models)]
EditorName = Annotated[str, OneOf(lambda: [card.name for card in cards()])]


# --- hyper-parameters ----------------------------------------------------------------------------


def _hyper_parameters(card: Card) -> Any:
    kinds: list[Any] = [card.settings] if card.training is None else [card.settings, card.training]
    return section(*kinds)


def _editors() -> dict[str, Any]:
    return {card.name: _hyper_parameters(card) for card in cards()}


def _grids() -> dict[str, Any]:
    return {name: _grid(kind) for name, kind in _editors().items()}


@cache
def _grid(hyper_parameters: Any) -> Any:
    """Return the form of the values to try of an editor's hyper-parameters."""
    several: Any = Listed
    lists = {key: several[hint] for key, hint in hyper_parameters.__annotations__.items()}
    grid = mapping(f"{hyper_parameters.__name__}Grid", lists)
    return Annotated[grid, Field(min_length=1, json_schema_extra={"minProperties": 1})]


def _variant() -> dict[str, Any]:
    """Return what an ablation may change: the editor, its modules, whatever setting is a choice."""
    settings = section(HyperSettings).__annotations__.items()
    kinds = {key: get_args(hint)[0] for key, hint in settings}
    is_choice = {key: kind is bool or get_origin(kind) is Literal for key, kind in kinds.items()}
    return {
        "editor": Annotated[str, OneOf(trained)],
        "modules": Annotated[str, OneOf(_modules)],
        **{key: hint for key, hint in settings if is_choice[key]},
    }


Editors = Annotated[Mapping[str, Mapping[str, Any]], Keyed(_editors)]


def _of_language_models() -> dict[str, Any]:
    return dict.fromkeys(_language_models(), LanguageModel)


def _fact_checker() -> dict[str, Any]:
    settings = section(FactCheckerSettings).__annotations__
    return {"claims": Annotated[int, Field(ge=2)], "held_out": Count, **settings}


def _pretraining() -> dict[str, Any]:
    settings = section(PretrainingSettings).__annotations__
    epochs = Annotated[Mapping[str, int], Keyed(_epochs, total=True)]
    return {"subjects": Count, **settings, "epochs": Required[epochs]}


def _epochs() -> dict[str, Any]:
    return {name: Count for name, entry in catalogue().items() if entry.built}


# --- the sections --------------------------------------------------------------------------------


class Run(TypedDict):
    """What is made."""

    language_models: Listed[LanguageModelName]
    editors: Listed[Annotated[str, OneOf(lambda: [card.name for card in cards()], found=find)]]


class Statistics(TypedDict):
    """Statistics of keys."""

    texts: Text
    samples: Count
    length: Count


class Rows(TypedDict):
    """Rows of every split."""

    train: Count
    validation: Count
    evaluation: Count


class Source(TypedDict):
    """Where the rows of a split come from: paths, or download:NAME of `malmen download`."""

    files: Annotated[list[Text], Field(min_length=1)]
    unrelated: NotRequired[Text]


class Sources(TypedDict):
    """Where rows come from; without it, they are made from facts."""

    train: Source
    validation: Source
    evaluation: Source


class Stage(TypedDict):
    """Meta-training at one number of edits."""

    edits: Count
    steps: Count
    patience: NotRequired[Count]
    evaluate_every: NotRequired[Count]


class LanguageModel(TypedDict):
    """How much data a language model gets, and at which numbers of edits."""

    sources: NotRequired[Sources]
    rows: Rows
    edits: Annotated[list[Count], Field(min_length=1)]
    sets: Count
    training: Annotated[list[Stage], Field(min_length=1)]
    edited_by: NotRequired[Listed[Count]]
    editors_of: NotRequired[Text]
    without: NotRequired[Distinct[EditorName]]
    editors: Editors


class Ablations(TypedDict):
    """MALMEN with one setting changed."""

    language_model: LanguageModelName
    edits: Listed[Count]
    variants: Annotated[
        dict[Name, Annotated[Mapping[str, Any], Keyed(_variant)]],
        Field(json_schema_extra={"additionalProperties": False}),
    ]


class Memory(TypedDict):
    """Peak memory of meta-training and editing."""

    language_model: LanguageModelName
    edits: Listed[Count]
    limit_mb: Count


class Answers(TypedDict):
    """Answers shown before and after editing."""

    language_model: Annotated[str, OneOf(_answering)]
    edits: Count


class Search(TypedDict):
    """Hyper-parameters tried on the validation rows."""

    edits: Count
    steps: Count
    sets: Count
    grid: Annotated[Mapping[str, Mapping[str, list[Any]]], Keyed(_grids)]


def _catalogue(file: str) -> str:
    use([file])
    return file


@form
class Configuration(TypedDict):
    """Configuration of the MALMEN reproduction.

    Keys are read in this order: `models` and `run` make known what later ones name.
    """

    scale: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$")]
    seed: Annotated[int, Field(ge=0)]
    threads: Count
    machine: Literal["check", "ignore"]
    models: NotRequired[Distinct[Annotated[Text, AfterValidator(_catalogue)]]]
    run: Run
    fact_checker: Annotated[Mapping[str, Any], Keyed(_fact_checker)]
    pretraining: Annotated[Mapping[str, Any], Keyed(_pretraining)]
    statistics: Statistics
    editors: Editors
    language_models: Annotated[Mapping[str, LanguageModel], Keyed(_of_language_models)]
    ablations: Ablations
    memory: Memory
    answers: Answers
    search: Search


def schema() -> dict[str, Any]:
    """Return the JSON Schema of configurations and of overlays, for editors of YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **json_schema(Configuration)}
