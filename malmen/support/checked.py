"""Values checked by their types, and every problem said in a line: where, what, what instead.

Types carry their bounds, as in `Annotated[int, Field(ge=1)]`. They are taken strictly: 24.0 is no
whole number, true is no number, and neither is NaN.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from malmen.support.errors import InputError, choices

__all__ = [
    "Checked",
    "Count",
    "Rate",
    "Weight",
    "form",
    "json_schema",
    "mapping",
    "problems",
    "section",
]

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]

CONFIG = ConfigDict(
    extra="forbid",
    strict=True,
    allow_inf_nan=False,
    arbitrary_types_allowed=True,
)

form = with_config(CONFIG)
"""Decorates a TypedDict: a mapping that holds these keys and no others."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A base of dataclasses whose constructor refuses what the types of the fields exclude.

    Raises:
        InputError: One line that names every field in question.
    """

    def __post_init__(self) -> None:
        kind: Any = type(self)
        if found := problems(section(kind), vars(self)):
            raise InputError("; ".join(found))


@cache
def section(*kinds: Any) -> Any:
    """Return the form of a mapping to fields of dataclasses, of which none is required."""
    keys: dict[str, Any] = {}
    for kind in kinds:
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            about = Field(json_schema_extra=partial(_document, kind, field.name))
            keys[field.name] = Annotated[hints[field.name], about]
    return mapping("And".join(kind.__name__ for kind in kinds), keys)


def mapping(name: str, keys: Mapping[str, Any], *, total: bool = False) -> Any:
    """Return the form of a mapping with these keys, each of its type; all required if total."""
    make: Any = TypedDict
    return form(make(name, keys, total=total))


def _document(kind: Any, field: str, schema: dict[str, Any]) -> None:
    """Add a field's description and default, as far as JSON can say it, to its schema."""
    bases: list[Any] = [base for base in reversed(kind.__mro__) if is_dataclass(base)]
    for base in bases:  # a docstring stays with its class
        schema |= _documentation(base).get(field, {})


@cache
def _documentation(kind: Any) -> dict[str, dict[str, Any]]:
    config = ConfigDict(**CONFIG, use_attribute_docstrings=True)
    found = json_schema(TypeAdapter(list[kind], config=config))["$defs"][kind.__name__]
    return {
        field: {key: about[key] for key in ("description", "default") if key in about}
        for field, about in found.get("properties", {}).items()
    }


class _Schema(GenerateJsonSchema):
    """A schema that asks for no key, as in an overlay, and takes anything it has no word for."""

    def field_is_required(self, *_: Any, **__: Any) -> bool:
        return False

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}


def json_schema(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type, or of pydantic's adapter of one."""
    return _adapter(kind).json_schema(schema_generator=_Schema)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)


def problems(kind: Any, value: object) -> list[str]:
    """Return a line for everything that keeps a value from being of a type.

    Args:
        kind: a type, or pydantic's adapter of one.
        value: what should be of that type.

    Returns:
        The path of the key, what is wrong, what would be right; nothing if all is well.
    """
    adapter = _adapter(kind)
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        schema = json_schema(adapter)
        found = sorted(error.errors(), key=lambda one: [*map(str, one["loc"])])
        return [_line(schema, one) for one in found]
    return []


_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}
_TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "a mapping of keys to values",
    "string": "text",
}


def _line(schema: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    *above, last = path = error["loc"]
    value, bounds = error["input"], error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            known = list(_at(schema, above).get("properties", {}))
            return f"{_where(above)}unknown key {last!r} {choices(last, known)}"
        case "value_error":
            return f"{_where(path)}{bounds['error']}"
        case "missing":
            return f"{_where(above)}key {last!r} is missing"
        case "literal_error":
            about = _at(schema, path)
            known = about.get("enum", [about.get("const")])
            return f"{_where(path)}unknown value {value!r} {choices(value, known)}"
        case "string_pattern_mismatch":
            path = path[:-2] if last == "[key]" else path
            return f"{_where(path)}{value!r} does not match {bounds['pattern']}"
        case kind if kind in _BOUNDS:
            [limit] = bounds.values()
            return f"{_where(path)}must be {_BOUNDS[kind]} {limit:g}, got {value!r}"
        case "too_short" | "string_too_short" if bounds["min_length"] == 1:
            return f"{_where(path)}must not be empty"
    kind = _at(schema, path).get("type")
    if kind in _TYPES and error["type"].endswith(("_type", "finite_number")):
        return f"{_where(path)}expected {_TYPES[kind]}, got {value!r}{_point(value, kind)}"
    return f"{_where(path)}{error['msg']}"


def _at(schema: Mapping[str, Any], path: Sequence[str | int]) -> Mapping[str, Any]:
    """Return the part of a JSON Schema that says what may stand at a path, as far as it does."""
    found: Any = schema
    for key in path:
        found = _resolved(schema, found)
        if isinstance(key, int):
            found = found.get("items")
        else:
            patterns = found.get("patternProperties", {}).values()
            others = [*patterns, found.get("additionalProperties")]
            found = found.get("properties", {}).get(key, others[0])
    return _resolved(schema, found)


def _resolved(schema: Mapping[str, Any], part: Any) -> Mapping[str, Any]:
    while isinstance(part, Mapping) and "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    return part if isinstance(part, Mapping) else {}


def _where(path: Sequence[str | int]) -> str:
    """`language_models.smollm2.edits[2]: `, or nothing at the top."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{text.lstrip('.')}: " if text else ""


def _point(value: object, kind: str) -> str:
    """A remedy for YAML's trap: 1e-4 is text there, 1.0e-4 is a number."""
    if kind not in {"number", "integer"} or not isinstance(value, str):
        return ""
    try:
        float(value)
    except ValueError:
        return ""
    return " (YAML takes this for text: write it without quotes and with a point, as in 1.0e-4)"
