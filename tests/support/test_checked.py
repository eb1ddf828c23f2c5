"""What the types of settings exclude is refused, each problem in a line."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from typing_extensions import TypedDict

from malmen.lm.weights.settings import FactCheckerSettings, PretrainingSettings
from malmen.settings import FineTuningSettings, HyperSettings, MemitSettings, TrainingSettings
from malmen.support.checked import Checked, Count, Rate, form, json_schema, problems, section
from malmen.support.errors import InputError

KINDS: list[Any] = [
    FactCheckerSettings,
    FineTuningSettings,
    HyperSettings,
    MemitSettings,
    PretrainingSettings,
    TrainingSettings,
]


class Part(TypedDict):
    """A part."""

    share: Annotated[float, Field(ge=0, lt=1)]
    kind: NotRequired[Literal["one", "two"]]


@form
class Whole(TypedDict):
    """A whole."""

    count: Count
    parts: list[Part]
    named: dict[Annotated[str, Field(pattern="^[a-z]+$")], Part]


def whole(**changes: Any) -> dict[str, Any]:
    return {"count": 1, "parts": [{"share": 0.5}], "named": {}, **changes}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"count": 24.0}, "count: expected a whole number, got 24.0"),
        ({"count": True}, "count: expected a whole number, got True"),
        ({"count": "1e2"}, "count: expected a whole number, got '1e2' (YAML takes this for text"),
        ({"parts": {}}, "parts: expected a list, got {}"),
        ({"parts": [3]}, "parts[0]: expected a mapping of keys to values, got 3"),
        ({"parts": [{}]}, "parts[0]: key 'share' is missing"),
        ({"parts": [{"share": True}]}, "parts[0].share: expected a number, got True"),
        ({"parts": [{"share": float("inf")}]}, "parts[0].share: expected a number, got inf"),
        ({"parts": [{"share": 1}]}, "parts[0].share: must be below 1, got 1"),
        ({"parts": [{"share": -0.5}]}, "parts[0].share: must be at least 0, got -0.5"),
        (
            {"parts": [{"share": 0, "kind": "too"}]},
            "parts[0].kind: unknown value 'too' (did you mean 'two'? choices: one, two)",
        ),
        ({"named": {"a": {"kind": "one"}}}, "named.a: key 'share' is missing"),
        ({"named": {"a": {"share": 0, "kin": 1}}}, "named.a: unknown key 'kin' (did you mean 'ki"),
        ({"named": {"A": {"share": 0}}}, "named: 'A' does not match ^[a-z]+$"),
        ({"cuont": 1}, "unknown key 'cuont' (did you mean 'count'? choices: count, parts, named)"),
    ],
)
def test_a_problem_gets_a_line(changes: dict[str, Any], line: str) -> None:
    (found,) = problems(Whole, whole(**changes))
    assert found.startswith(line)


def test_all_problems_are_named_at_once() -> None:
    assert problems(Whole, whole()) == []
    assert len(problems(Whole, {"count": 0, "parts": [{"share": 2}, 3], "name": {}})) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_their_own_defaults(kind: Any) -> None:
    assert problems(section(kind), vars(kind())) == []


@given(st.sampled_from(["rank", "n_blocks", "token_batch"]), st.integers(-3, 3))
def test_a_constructor_refuses_what_is_out_of_bounds(name: str, value: int) -> None:
    if value >= 1:
        assert getattr(HyperSettings(**{name: value}), name) == value
    else:
        with pytest.raises(InputError, match=f"^{name}: must be at least 1, got {value}$"):
            replace(HyperSettings(), **{name: value})


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Settings of somebody else, who knows nothing of bounds."""

    layers: tuple[int, ...] = (1, 2)
    """Which layers."""
    folder: Path = Path()
    """Where."""


@dataclass(frozen=True, kw_only=True)
class Derived(Plain, Checked):
    """Settings that go on."""

    rate: Rate = 0.5
    """How fast."""


@dataclass(frozen=True, kw_only=True)
class Odd:
    """Settings of types that a schema says little of."""

    either: int | str | None = None
    pair: tuple[int, str] = (1, "a")
    table: dict[str, Count] = field(default_factory=dict)
    anything: Any = None
    own: Plain = field(default_factory=Plain)


@given(
    st.sampled_from(["either", "pair", "table", "anything", "own"]),
    st.recursive(
        st.none() | st.booleans() | st.integers(-1, 1) | st.floats() | st.text(max_size=1),
        lambda part: st.lists(part, max_size=2) | st.dictionaries(st.text(max_size=1), part),
        max_leaves=4,
    ),
)
def test_odd_types_are_refused_in_lines_never_in_a_crash(name: str, value: object) -> None:
    for line in problems(section(Odd), {name: value}):
        assert line.startswith(name)
        assert "\n" not in line


def test_docstrings_and_defaults_are_in_the_schema() -> None:
    found = json_schema(section(Derived))["properties"]
    assert [one["description"] for one in found.values()] == [
        "Which layers.",
        "Where.",
        "How fast.",
    ]
    assert [one["default"] for one in found.values()] == [[1, 2], ".", 0.5]
    assert found["rate"]["exclusiveMinimum"] == 0
    with pytest.raises(InputError, match=r"^layers\[1\]: .*; rate: must be above 0, got -1$"):
        Derived(layers=(1, "a"), rate=-1)  # type: ignore[arg-type]
