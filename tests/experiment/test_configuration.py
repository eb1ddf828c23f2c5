"""The form of a configuration follows from the settings: one change in one file is all it takes."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from configurations import ROOT, load, problems
from snakemake.utils import validate

from malmen.__main__ import main
from malmen.experiment import cards
from malmen.experiment.cards import Card, find
from malmen.experiment.configuration import schema
from malmen.experiment.consistency import check
from malmen.experiment.jobs import Jobs
from malmen.experiment.provenance import code_digest
from malmen.support.files import write_json

CONFIGURATIONS = sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a test makes known be unknown to the next."""
    monkeypatch.setattr(cards, "_named", {})


def part(*path: str) -> dict[str, Any]:
    """What the schema says may stand at a path."""
    whole = found = schema()
    for key in (*path, None):
        if "$ref" in found:
            found = whole["$defs"][found["$ref"].rpartition("/")[2]]
        found = found["properties"][key] if key else found
    return found


# --- one change in one file ---

EDITOR = '''
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from malmen.experiment.cards import Card
from malmen.support.checked import Checked


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """Of an editor."""

    {name}: Annotated[int, Field(ge=1, le={most})] = 3
    """How far it goes."""


CARD = Card(name="far", title="Far", editor="{module}:Far", settings=Settings)
'''


@pytest.mark.parametrize(("name", "most"), [("reach", 5), ("reach", 50), ("distance", 5)])
@pytest.mark.usefixtures("unknown")
def test_a_setting_is_declared_once(
    name: str,
    most: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = f"{name}_{most}"
    file = tmp_path / f"{module}.py"
    file.write_text(EDITOR.format(name=name, most=most, module=module), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    run = {"run": {"editors": ["malmen", f"{module}:CARD"]}}

    # A configuration takes it, and the command line is told of it.
    config = load("smoke", {**run, "editors": {"far": {name: most}}})
    check(config)
    options = Jobs(config).evaluation_options("smollm2", "far", edits=4, sets=2)
    assert f"--far.{name} {most}" in options
    # What is out of its bounds is refused, in a search too, and so are other names.
    for section, value in (("editors", most + 1), ("search", [1, most + 1])):
        far = {"far": {name: value}}
        where = f"editors.far.{name}" if section == "editors" else f"search.grid.far.{name}[1]"
        (line,) = problems({**run, section: far if section == "editors" else {"grid": far}})
        assert line == f"configuration: {where}: must be at most {most}, got {most + 1}"
    (line,) = problems({**run, "editors": {"far": {f"{name}s": 1}}})
    assert f"unknown key '{name}s' (did you mean '{name}'? choices: {name})" in line
    # The schema says all of it.
    printed = part("editors", "far")["properties"]
    about = {"title": name.title(), "type": "integer", "minimum": 1, "maximum": most}
    assert printed == {name: {**about, "default": 3, "description": "How far it goes."}}
    # So does the help; and the option is held to the same bounds.
    command = f"malmen evaluate --editor {module}:CARD"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    shown = " ".join(capsys.readouterr().out.split())
    assert f"--far.{name} INT How far it goes. (default: 3)" in shown
    needed = "--lm gpt2 --weights w --rows r --edits 4 --sets 1 --out o"
    monkeypatch.setattr(sys, "argv", [*command.split(), *needed.split(), f"--far.{name}", "0"])
    with pytest.raises(SystemExit, match="2"):
        main()
    refused = " ".join(capsys.readouterr().err.split())
    assert f"{name}: must be at least 1, got 0" in refused
    # Another bound is another code.
    digest = code_digest(module, elsewhere=True)
    file.write_text(EDITOR.format(name=name, most=most + 1, module=module), encoding="utf-8")
    assert code_digest(module, elsewhere=True) != digest


# --- the schema ---


@pytest.mark.parametrize("card", cards.OWN, ids=lambda card: card.name)
def test_a_section_holds_the_settings_of_its_card(card: Card) -> None:
    kinds = [kind for kind in (card.settings, card.training) if kind is not None]
    declared = [field for kind in kinds for field in fields(kind)]
    of_run = part("editors", card.name)["properties"]
    of_lm = part("language_models", "gpt2", "editors", card.name)["properties"]
    tried = part("search", "grid", card.name)["properties"]
    assert list(of_run) == list(tried) == [field.name for field in declared]
    assert of_lm == of_run
    for field in declared:
        about = of_run[field.name]
        assert about["default"] == field.default
        assert about["description"]
        bounded = {"minimum", "exclusiveMinimum", "enum"} & set(about)
        assert bounded or about["type"] == "boolean"
        assert tried[field.name]["items"] == {k: v for k, v in about.items() if k != "title"}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_schema_takes_what_ships(name: str, tmp_path: Path) -> None:
    write_json(tmp_path / "schema.json", schema())
    overlay = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text(encoding="utf-8"))
    for config in (overlay, load(name)):
        validate(config, tmp_path / "schema.json", set_default=False)


@pytest.mark.usefixtures("unknown")
def test_the_schema_refuses_what_a_run_refuses(tmp_path: Path) -> None:
    find("toy_editor:CARD")
    write_json(tmp_path / "schema.json", schema())
    for overlay in (
        {"sacle": "desk"},
        {"scale": "My desk"},
        {"seed": -1},
        {"run": {"editors": ["rome"]}},
        {"editors": {"ft": {"rank": 4}}},
        {"editors": {"ft": {"learning_rate": "1e-4"}}},
        {"editors": {"step": {"step": "far"}}},
        {"search": {"grid": {"ft": {"epochs": [10, 10]}}}},
        {"language_models": {"gpt5": {}}},
        {"ablations": {"variants": {"a/b": {}}}},
        {"ablations": {"variants": {"sum": {"rank": 4}}}},
    ):
        problems(overlay)
        with pytest.raises(Exception, match="Error validating"):
            validate(overlay, tmp_path / "schema.json", set_default=False)


def test_a_scale_may_have_any_name() -> None:
    for name in ("desk", "my-desk", "run_2", "2026"):
        config = load("smoke", {"scale": name})
        check(config)


def test_a_search_of_nothing_is_refused() -> None:
    config = load("config")
    config["search"]["grid"]["ft"] = {}
    with pytest.raises(ValueError, match=r"search\.grid\.ft: must not be empty"):
        check(config)
