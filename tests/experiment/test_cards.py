"""Editors are described once: those from outside run through everything, no name is compared."""

import ast
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.metadata import EntryPoint
from inspect import signature
from pathlib import Path

import pandas as pd
import pytest
import yaml
from checkouts import Checkout, commands, options_of
from configurations import load, problems
from tiny_folders import write_lines, write_lm, zsre_line

from malmen.__main__ import main
from malmen.editor import HyperNetworkEditor
from malmen.experiment import cards
from malmen.experiment.cards import Card, find
from malmen.experiment.consistency import check
from malmen.experiment.provenance import code_digest
from malmen.lm import onednn
from malmen.lm.catalogue import lookup
from malmen.planning.estimates import costs
from malmen.results import per_fact
from malmen.results.comparison import PRE_EDIT, editor_order
from malmen.settings import FineTuningSettings
from malmen.support.errors import InputError

ROOT = Path(__file__).parents[2]
STEP, DAMPED = "toy_editor:CARD", "toy_editor:TRAINED"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a test makes known be unknown to the next."""
    monkeypatch.setattr(cards, "_named", {})


def card(name: str = "new", title: str = "New") -> Card:
    return Card(name=name, title=title, editor="m:New", settings=FineTuningSettings)


# --- the registry ---


@pytest.mark.parametrize("one", cards.OWN, ids=lambda one: one.name)
def test_a_card_tells_the_truth_about_its_class(one: Card) -> None:
    kind = one.load()
    assert issubclass(kind, HyperNetworkEditor) == (one.training is not None)
    assert ("statistics" in signature(kind).parameters) == one.statistics
    kinds = [kind for kind in (one.settings, one.training) if kind is not None]
    names = [field.name for kind in kinds for field in fields(kind)]
    assert len(names) == len(set(names))  # they stand in one section of a configuration
    one.settings()  # everything has a default


def test_cards_are_read_without_heavy_libraries() -> None:
    code = "import malmen.experiment.cards, sys; "
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0


def test_an_editor_is_found_by_where_its_card_stands() -> None:
    with pytest.raises(InputError, match="unknown editor step; choose from ft, mend, "):
        find("step")
    one = find(STEP)
    assert find("step") is find(STEP) is one
    assert cards.cards() == (*cards.OWN, one)
    ordered = editor_order(["Zeta", "One step", "FT"], cards.titles())
    assert ordered == ["FT", "One step", "Zeta"]


def test_an_installed_package_brings_editors(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("any name", STEP, cards.ENTRY_POINTS)
    monkeypatch.setattr(cards, "entry_points", lambda group: [point])
    cards._installed.cache_clear()
    try:
        assert find("step").title == "One step"
        assert find(STEP) is find("step")
    finally:
        cards._installed.cache_clear()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:CARD", "no editor at no_such_module:CARD: No module named"),
        ("toy_editor:CARDS", "no editor at toy_editor:CARDS: .*write package.module:CARD"),
        (":CARD", "no editor at :CARD: "),
        ("toy_editor:Step", "it is no malmen.experiment.cards.Card"),
    ],
)
def test_what_is_no_card_is_named(reference: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find(reference)


@pytest.mark.parametrize(("name", "title"), [("ft", "New"), ("new", "MEMIT")])
def test_names_are_distinct(name: str, title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toy_editor.CARD", card(name, title))
    with pytest.raises(InputError, match=f"{STEP}: there is another editor by the name"):
        find(STEP)


@pytest.mark.parametrize("name", ["", "A", "a-b", "a/b", "1st"])
def test_a_name_is_fit_for_files_and_options(name: str) -> None:
    with pytest.raises(InputError, match="small letters, digits and _"):
        card(name)


def test_a_trained_editor_has_no_modules_of_its_own() -> None:
    with pytest.raises(InputError, match="editor 'mend': --modules chooses"):
        replace(cards.MEND, modules="memit")


# --- nothing else compares names ---

NAMES = {name for one in cards.OWN for name in (one.name, one.title)}
CATALOGUE = {  # where the same word is a choice of modules in the catalogue
    "malmen/lm/catalogue.py",
    "malmen/lm/model_tree.py",
    "malmen/lm/open_catalogue.py",
    "malmen/figures/diagrams/stack_diagram.py",
}
PROJECT = {  # where it is the name of the project: a program, a logger, a file's metadata
    "malmen/__main__.py",
    "malmen/support/files.py",
    "malmen/experiment/provenance.py",
}


def named(source: str) -> set[str]:
    """Names of editors that are values in a source: all of its strings but those in prose."""
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return NAMES.intersection(text for text in strings if isinstance(text, str))


def test_no_module_compares_the_name_of_an_editor() -> None:
    for path in [*ROOT.glob("malmen/**/*.py"), *ROOT.glob("baselines/**/*.py")]:
        where = path.relative_to(ROOT).as_posix()
        # `__all__` and what a package exports name classes.
        lists = r"(?s)__all__ = \[[^]]*\]|_PUBLIC = \{.*?\n\}"
        source = re.sub(lists, "", path.read_text("utf-8"))
        allowed = {"memit", "MEMIT"} if where in CATALOGUE else set()
        allowed |= {"malmen"} if where in PROJECT else set()
        if where != "malmen/experiment/cards.py":
            assert named(source) <= allowed, where


def test_no_rule_compares_the_name_of_an_editor() -> None:
    for path in [ROOT / "Snakefile", *ROOT.glob("workflow/rules/*.smk")]:
        source = path.read_text("utf-8").replace('"-m", "malmen"', "")  # the program
        strings = set(re.findall(r"""["']([^"'\n]*)["']""", source))
        assert not NAMES & strings, path


# --- an editor of somebody else, by the commands ---

Malmen = Callable[[str], None]


@pytest.fixture
def malmen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Malmen:
    """Run a command in a folder of its own; each knows only the editors that it names itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(onednn, "is_faster", lambda: False)  # for good, in this process

    def run(command: str) -> None:
        monkeypatch.setattr(cards, "_named", {})
        monkeypatch.setattr(sys, "argv", ["malmen", *command.split()])
        main()

    return run


CLAIMS = [
    {
        "id": "better",
        "text": "Damped is better than one step.",
        "source": "nobody",
        "test": {"kind": "difference", "editor": "Damped", "against": "One step", "measure": "es"},
        "above": 0,
        "language_models": "all",
    },
    {
        "id": "faster",
        "text": "One step is faster, training included.",
        "source": "nobody",
        "test": {"kind": "time", "editor": "One step", "against": "Damped"},
        "below": 1,
        "language_models": "all",
    },
]


def test_editors_from_outside_run_through_everything(malmen: Malmen, tmp_path: Path) -> None:
    write_lm(tmp_path / "lm", "smollm2")
    write_lines(tmp_path / "rows.jsonl", [zsre_line(i) for i in range(8)])
    lm = "--lm smollm2 --weights lm --rows rows.jsonl"
    malmen(f"prefix {lm} --out-dir .")
    malmen(
        f"train --editor {DAMPED} {lm} --prefix rows.safetensors --validation-rows rows.jsonl"
        " --validation-prefix rows.safetensors --edits 4 --steps 2 --rank 4 --damping 2"
        " --clip 0.5 --out damped_4.safetensors"
    )
    settings = json.loads(Path("damped_4.json").read_text("utf-8"))["settings"]
    assert (settings["editor"], settings["damping"], settings["clip"]) == ("damped", 2, 0.5)
    evaluate = f"{lm} --prefix rows.safetensors --edits 2 4 --sets 2 --fact-batch 4"
    for editor, options in {
        STEP: "--step.step 0.5",
        DAMPED: "--trained damped_4.safetensors@4",
        "ft": "--ft.epochs 1",
    }.items():
        name = find(editor).name
        malmen(f"evaluate --editor {editor} {evaluate} {options} --out {name}.parquet")
    alone = "--trained damped_4.safetensors@4 --trained-alone"
    malmen(f"evaluate --editor {DAMPED} {evaluate} {alone} --out alone.parquet")
    both = [per_fact.read(tmp_path / f"{name}.parquet")[0] for name in ("alone", "damped")]
    assert set(both[0]["editor"]) == {"Damped trained at 4"}
    assert both[0].drop(columns="editor").equals(both[1].drop(columns="editor"))
    frame, metadata = per_fact.read(tmp_path / "step.parquet")
    assert set(frame["editor"]) == {"One step"}
    assert metadata["settings"]["step"] == 0.5

    hyper = {"step": {"step": 0.5}, "damped": {"rank": 4}, "ft": {"epochs": 1}}
    schedule = [{"edits": 4, "steps": 2}]
    Path("settings.json").write_text(
        json.dumps({"smollm2": {"training": schedule, "editors": hyper}}), encoding="utf-8"
    )
    evaluations = "--evaluations step.parquet damped.parquet ft.parquet"
    known = f"--editors {STEP} {DAMPED} --out-dir out"
    malmen(f"table --number 1 {evaluations} {known}")
    malmen(f"table --number 3 --settings settings.json {known}")
    malmen(f"table --number 5 {evaluations} --trained damped_4.json {known}")
    malmen(f"figure --name S1 {evaluations} {known}")
    Path("claims.yaml").write_text(yaml.safe_dump(CLAIMS), encoding="utf-8")
    malmen(f"claims --claims claims.yaml {evaluations} --trained damped_4.json {known}")

    scores = pd.read_csv("out/table_1.csv")
    assert list(scores["editor"]) == [PRE_EDIT, "FT", "One step", "Damped"]
    printed = Path("out/table_1.md").read_text("utf-8")
    assert "† One step (Nobody, 2026) is later than the paper." in printed
    hyper_parameters = pd.read_csv("out/table_3.csv")
    one = hyper_parameters[hyper_parameters["editor"] == "One step"]
    assert one[["setting", "column", "value"]].to_numpy().tolist() == [["step", "smollm2", 0.5]]
    seconds = pd.read_csv("out/table_5.csv").set_index("editor")["training_seconds"]
    assert seconds.notna().to_dict() == {"FT": False, "One step": False, "Damped": True}
    drawn = pd.read_csv("out/figure_S1.csv")
    assert {"One step", "Damped"} < set(drawn["editor"])
    claims = pd.read_csv("out/claims.csv").set_index("id")
    assert claims["value"].notna().all()
    assert claims.loc["faster", "status"] == "holds"


# --- the same, by the workflow ---

OVERLAY = {
    "run": {"editors": ["malmen", STEP, DAMPED], "language_models": ["gptj_desk"]},
    "editors": {"step": {"step": 0.25}, "damped": {"rank": 8}},
    "language_models": {"gptj_desk": {"editors": {"damped": {"damping": 3.0}}}},
    "answers": {"language_model": "gptj_desk"},
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout.create(tmp_path_factory.mktemp("foreign"))


def python_path(checkout: Checkout) -> str:
    return os.pathsep.join(map(str, (checkout.folder, ROOT / "tests/support")))


def test_the_workflow_runs_editors_from_outside(checkout: Checkout) -> None:
    run = checkout.snakemake(
        "-n", "-p", scale="smoke", overlay=OVERLAY, PYTHONPATH=python_path(checkout)
    )
    assert run.returncode == 0, run.stdout + run.stderr
    step, damped = (
        next(c for c in commands(run, "evaluate", out="smoke/evaluations") if f"/{name}.p" in c)
        for name in ("step", "damped")
    )
    assert options_of(step)["--editor"] == STEP
    assert options_of(step)["--step.step"] == "0.25"
    folder = "results/smoke/editors/gptj_desk/damped"
    assert options_of(damped)["--trained"] == (f"{folder}_4.safetensors@4 {folder}_8.safetensors@8")
    trained = [c for c in commands(run, "train", out="smoke/editors") if "/damped_" in c]
    assert len(trained) == 2
    for call in trained:
        found = options_of(call)
        assert [found[f"--{key}"] for key in ("editor", "rank", "damping")] == [DAMPED, "8", "3.0"]
    for command, number in (("table", 5), ("claims", 1), ("figure", 2)):
        calls = re.findall(rf"malmen {command} (--.*) 2> ", run.stdout)
        assert len(calls) == number
        assert all(f"--editors {STEP} {DAMPED} --" in call for call in calls)


@pytest.mark.slow
def test_a_whole_run_with_an_editor_from_outside(checkout: Checkout) -> None:
    script = checkout.folder / "bin" / "malmen"
    stand_in = script.read_text()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m malmen "$@"\n')
    targets = [
        *(f"results/smoke/tables/table_{number}.md" for number in (1, 3, 5)),
        f"results/smoke/figures/figure_{lookup('gptj_desk').figure}.png",
        "results/smoke/claims.md",
    ]
    run = checkout.snakemake(
        *targets,
        scale="smoke",
        overlay=OVERLAY,
        PYTHONPATH=python_path(checkout),
        OMP_NUM_THREADS="1",
    )
    script.write_text(stand_in)
    assert run.returncode == 0, run.stdout + run.stderr
    scores = pd.read_csv(checkout.folder / "results/smoke/tables/table_1.csv")
    assert set(scores["editor"]) == {PRE_EDIT, "MALMEN", "One step", "Damped"}


def test_settings_of_an_editor_from_outside_are_checked() -> None:
    check(load("smoke", OVERLAY))
    listed = {"run": {"editors": ["malmen", STEP]}}
    (line,) = problems({**listed, "editors": {"step": {"stepp": 1.0}}})
    expected = "configuration: editors.step: unknown key 'stepp' (did you mean 'step'? choices: "
    assert line.startswith(expected)
    (line,) = problems({**listed, "editors": {"step": {"step": "far"}}})
    assert line == "configuration: editors.step.step: expected a number, got 'far'"
    (line,) = problems({**listed, "search": {"grid": {"step": {"step": []}}}})
    assert "search.grid.step.step: must not be empty" in line
    (line,) = problems({"run": {"editors": ["toy_editor:CARDS"]}})
    assert line.startswith("configuration: run.editors[0]: no editor at toy_editor:CARDS: ")


def test_what_editors_from_outside_take_is_estimated() -> None:
    run = {"language_models": ["gpt2"], "editors": ["ft", STEP, DAMPED]}
    section = {"training": [{"edits": 64, "steps": 4}], "edits": [64, 128]}
    found = costs(load("paper", {"run": run, "language_models": {"gpt2": section}}))
    hours = {(cost.rule, cost.what): cost.hours for cost in found}
    assert hours["evaluate", "gpt2, ft"] > hours["evaluate", "gpt2, step"] > 0  # of scoring alone
    assert hours["train", "gpt2, damped"] > 0


def test_the_code_of_an_editor_from_outside_is_in_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside").mkdir()
    for name, text in {
        "__init__": "",
        "one": "from outside.two import x\nfrom malmen.support.errors import InputError\n",
        "two": "x = 1\n",
        "three": "x = 1\n",
    }.items():
        (tmp_path / "outside" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    digest = code_digest("outside.one", elsewhere=True)
    (tmp_path / "outside" / "three.py").write_text("x = 2\n")
    assert code_digest("outside.one", elsewhere=True) == digest
    (tmp_path / "outside" / "two.py").write_text("x = 2\n")
    assert code_digest("outside.one", elsewhere=True) != digest
    with pytest.raises(InputError, match="unknown project module"):
        code_digest("outside.one")
