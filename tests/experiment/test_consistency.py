"""The configuration: what ships is accepted, and every mistake gets a line that says what to do."""

from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from configurations import load, problems
from hypothesis import given
from hypothesis import strategies as st
from known_editors import PRINTED_NAMES

from malmen.experiment.cards import cards
from malmen.experiment.consistency import check
from malmen.lm.catalogue import catalogue
from malmen.settings import (
    FineTuningSettings,
    HyperSettings,
    MemitSettings,
    OracleSettings,
    TokenSettings,
    TrainingSettings,
)
from malmen.support.errors import InputError

ROOT = Path(__file__).parents[2]


DESK = load("config")
SMOLLM2 = DESK["language_models"]["smollm2"]


def put(path, value):
    """An overlay that sets one key: put("a.b", 1) is {"a": {"b": 1}}."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize("name", ["config", "smoke", "paper"])
def test_shipped_configurations_are_accepted(name):
    check(load(name))


def test_every_scale_has_its_own_results():
    names = ["config", "smoke", "zsre", "fever", "counterfact", "paper"]
    assert [load(name)["scale"] for name in names] == ["desk", *names[1:]]


def test_the_papers_scale_trains_once_over_the_rows_at_every_count():
    config = load("paper")
    for name in config["run"]["language_models"]:
        settings = config["language_models"][name]
        for stage in settings["training"]:
            assert stage["edits"] * stage["steps"] == settings["rows"]["train"]
        counts = settings["edits"]
        assert [2 * count for count in counts[:-1]] == counts[1:]
        assert {stage["edits"] for stage in settings["training"]} <= set(counts)


def test_the_papers_scale_has_the_published_hyper_parameters():
    config = load("paper")
    for editor, kinds in SETTINGS.items():
        defaults = {key: value for kind in kinds for key, value in asdict(kind()).items()}
        own = {"mend": "cached", "ultraedit": "token_batch", "memit": "fact_batch"}.get(editor)
        for key, value in config["editors"][editor].items():
            assert key == own or value == defaults[key], (editor, key)
    assert config["editors"]["mend"]["cached"] == "all"
    assert config["editors"]["ultraedit"]["token_batch"] == 128


@pytest.mark.parametrize("section", ["ablations", "memory", "answers"])
def test_a_language_model_without_a_section_is_named(section):
    lines = problems(put(f"{section}.language_model", "gpt2"))
    assert lines[0].startswith(f"configuration: {section}.language_model: gpt2 has no section")


def test_two_language_models_of_one_figure_are_refused():
    overlay = {"run": {"language_models": ["gpt2_desk", "gpt2"]}}
    (line,) = problems(overlay, "paper")
    assert "gpt2_desk and gpt2 are the same figure" in line


def test_real_files_are_accepted_and_missing_ones_named(tmp_path):
    present = tmp_path / "rows.jsonl"
    present.touch()
    splits = {
        split: {"files": [str(present)], "unrelated": str(present)}
        for split in ("train", "validation", "evaluation")
    }
    sources = put("language_models.smollm2.sources", splits)
    check(load("zsre", sources))
    splits["train"]["files"] = [str(tmp_path / "absent.json")]
    where = "configuration: language_models.smollm2.sources.train.files"
    assert problems(sources, "zsre") == [f"{where}: no such file: {tmp_path / 'absent.json'}"]
    splits["train"]["files"] = ["download:zsre_train.json"]
    check(load("zsre", sources))
    splits["train"]["files"] = ["download:zsre_trains.json"]
    (line,) = problems(sources, "zsre")
    expected = "nothing to download by the name 'zsre_trains.json' (did you mean 'zsre_train.json'?"
    assert line.startswith(f"{where}: {expected}")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("scale", "My desk", "scale: 'My desk' does not match ^[a-z0-9][a-z0-9_-]*$"),
        ("scale", "../desk", "scale: '../desk' does not match ^[a-z0-9][a-z0-9_-]*$"),
        ("scale", "reference", "scale: results/reference holds what runs are compared with; "),
        ("sacle", "desk", "unknown key 'sacle' (did you mean 'scale'? choices: scale, seed, "),
        ("run.language_models", ["smolm2"], "run.language_models[0]: unknown value 'smolm2' (did "),
        ("run.editors", ["rome"], "run.editors[0]: unknown value 'rome' (choices: ft, mend, "),
        ("run.editors", ["ft", "ft"], "run.editors: holds a value twice"),
        ("run.editors", [], "run.editors: must not be empty"),
        ("editors.malmen.ranks", 4, "editors.malmen: unknown key 'ranks' (did you mean 'rank'? "),
        ("language_models.smollm2.editors.ft.rank", 4, "language_models.smollm2.editors.ft: "),
        (
            "language_models.gpt5",
            {},
            "language_models: unknown key 'gpt5' (did you mean 'gpt",
        ),
        ("seed", "zero", "seed: expected a whole number, got 'zero'"),
        ("seed", -1, "seed: must be at least 0, got -1"),
        ("threads", 1.0, "threads: expected a whole number, got 1.0"),
        ("editors.ft.learning_rate", 0, "editors.ft.learning_rate: must be above 0, got 0"),
        ("editors.ft.learning_rate", float("nan"), "editors.ft.learning_rate: expected a number"),
        ("editors.ft.learning_rate", "1e-4", "with a point, as in 1.0e-4)"),
        ("run", None, "run: expected a mapping of keys to values, got None"),
        ("answers.edits", 65, "answers.edits: 65 is not a count that smollm2 is trained at (choic"),
        ("answers.language_model", "smollm", "unknown value 'smollm' (did you mean 'smollm2'?"),
        ("editors.malmen.cached", "some", "unknown value 'some' (choices: ans, all)"),
        ("editors.ultraedit.rank", 4, "editors.ultraedit: unknown key 'rank' (choices: learning_"),
        ("editors.memit.v_steps", 0, "editors.memit.v_steps: must be at least 1, got 0"),
        ("language_models.smollm2.without", ["memits"], "smollm2.without[0]: unknown value 'memi"),
        (
            "language_models.smollm2.edits",
            [16, 10**6],
            "language_models.smollm2.edits: 1000000 edits in 2 disjoint sets need 2000000 rows, "
            f"but rows.evaluation is {SMOLLM2['rows']['evaluation']} (lower the count or the sets, "
            "or raise rows.evaluation)",
        ),
        (
            "language_models.smollm2.training",
            [{"edits": DESK["answers"]["edits"], "steps": 1}, {"edits": 10**6, "steps": 1}],
            "language_models.smollm2.training: 1000000 edits need 1000000 rows, "
            f"but rows.train is {SMOLLM2['rows']['train']}",
        ),
        (
            "language_models.smollm2.edited_by",
            [65],
            "language_models.smollm2.edited_by: 65 is not a count that is trained at (choices: 64,",
        ),
        ("language_models.smollm2.edits", [32, 16], "counts must ascend, but 16 follows 32"),
        ("search.grid.ft.epochs", [5], "search.grid: every editor must get as many trials as the "),
        (
            "search.grid.rome",
            {"epochs": [5]},
            "search.grid: unknown key 'rome' (choices: ft, me",
        ),
        (
            "ablations.edits",
            [3],
            "ablations.edits: 3 is not a count that gpt2_desk is trained and ",
        ),
        ("ablations.variants", {"a/b": {}}, "ablations.variants: 'a/b' does not match"),
        ("ablations.language_model", "gpt3", "unknown value 'gpt3' (did you mean 'gpt"),
        ("ablations.variants.sum.editor", "ft", "variants.sum.editor: unknown value 'ft' (choices"),
        ("ablations.variants.sum.rank", 4, "ablations.variants.sum: unknown key 'rank' (choices: "),
        (
            "ablations.variants.first_fc.modules",
            "first",
            "unknown value 'first' (choices: edited, ",
        ),
        ("ablations.variants.new", {"normalise": 1}, "normalise: expected true or false, got 1"),
    ],
)
def test_a_mistake_gets_one_line(path, value, expected):
    lines = problems(put(path, value))
    assert len(lines) == 1
    assert expected in lines[0]


def test_a_missing_key_is_named():
    config = load("config")
    del config["language_models"]["smollm2"]["sets"]
    with pytest.raises(InputError, match=r"language_models\.smollm2: key 'sets' is missing$"):
        check(config)


def test_ablations_are_of_counts_that_are_trained_and_evaluated():
    settings = DESK["language_models"][DESK["ablations"]["language_model"]]
    trained = {stage["edits"] for stage in settings["training"]}
    for count in trained ^ set(settings["edits"]):
        (line,) = problems({"ablations": {"edits": [count]}})
        assert f"ablations.edits: {count} is not a count that " in line
    for count in trained & set(settings["edits"]):
        check(load("config", {"ablations": {"edits": [count]}}))


def test_the_search_must_fit_the_validation_rows_of_every_language_model():
    lines = problems({"search": {"sets": 10**6}})
    assert len(lines) == len(DESK["run"]["language_models"])
    for name, line in zip(DESK["run"]["language_models"], lines, strict=True):
        pool = DESK["language_models"][name]["rows"]["validation"]
        assert f"but language_models.{name}.rows.validation is {pool} " in line


@pytest.mark.parametrize("editor", ["malmen", "mend"])
def test_the_settings_on_zsre_are_among_the_trials_of_its_search(editor):
    config = load("zsre")
    own = config["language_models"]["smollm2"]["editors"].get(editor, {})
    settings = {**config["editors"][editor], **own}
    for key, tried in config["search"]["grid"][editor].items():
        assert settings[key] in tried


def test_all_mistakes_are_named_at_once():
    lines = problems({"seed": -1, "threads": 0, "sacle": "desk"})
    assert len(lines) == 3


def test_what_does_not_run_need_not_fit():
    overlay = put("language_models.fact_checker.edits", [5000])
    check(load("config", {**overlay, "run": {"language_models": ["smollm2"]}}))


@pytest.mark.parametrize("name", ["config", "smoke"])
def test_every_choice_of_the_schema_is_one_of_the_package(name):
    config = load(name)
    here = set(config["language_models"])
    papers = set(load("paper")["language_models"]) - here
    assert here | papers == {n for n, e in catalogue().items() if e.edited}
    assert papers == {n for n, e in catalogue().items() if e.edited and e.published}
    oracles = {card.name for card in cards() if card.oracle}
    assert [e for e in config["editors"] if e not in oracles] == list(config["search"]["grid"])
    assert set(config["editors"]) == set(PRINTED_NAMES)
    for lm in config["language_models"].values():
        assert set(lm["editors"]) <= set(PRINTED_NAMES)


SETTINGS = {
    "malmen": [HyperSettings, TrainingSettings],
    "mend": [HyperSettings, TrainingSettings],
    "ft": [FineTuningSettings],
    "ultraedit": [TokenSettings],
    "memit": [MemitSettings],
    "oracle": [OracleSettings],
}


def test_every_hyper_parameter_is_one_of_the_settings():
    for editor, kinds in SETTINGS.items():
        known = {field.name for kind in kinds for field in fields(kind)}
        assert set(DESK["editors"][editor]) <= known
        assert set(DESK["search"]["grid"].get(editor, ())) <= set(DESK["editors"][editor])
    known = {field.name for field in fields(HyperSettings)} | {"editor", "modules"}
    assert all(set(variant) <= known for variant in DESK["ablations"]["variants"].values())


def test_a_variant_is_malmen_with_something_changed():
    defaults = {**DESK["editors"]["malmen"], "modules": "edited", "editor": "malmen"}
    defaults |= {
        "normalise": HyperSettings().normalise,
        "learn_lambda": HyperSettings().learn_lambda,
        "loss_weights": HyperSettings().loss_weights,
    }
    for variant in DESK["ablations"]["variants"].values():
        assert any(defaults[key] != value for key, value in variant.items())


def keys(section, path=()):
    """Paths of all keys below a mapping."""
    for key, value in section.items():
        if path != ("ablations", "variants"):  # whose names are free
            yield (*path, key)
        if isinstance(value, dict):
            yield from keys(value, (*path, key))


@given(st.sampled_from(list(keys(DESK))), st.text(min_size=1))
def test_a_misspelt_key_never_passes(path, name):
    config = deepcopy(DESK)
    section = config
    for key in path[:-1]:
        section = section[key]
    if name in section:
        return
    section[name] = section.pop(path[-1])
    with pytest.raises(InputError):
        check(config)


@given(st.sampled_from(list(keys(DESK))), st.sampled_from([None, True, "text", -1, 0.5, [], [-1]]))
def test_a_wrong_value_is_refused_or_harmless_never_a_crash(path, value):
    config = deepcopy(DESK)
    section = config
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    with suppress(InputError):
        check(config)
