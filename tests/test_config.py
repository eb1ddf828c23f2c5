"""The configuration: what ships is accepted, and every mistake gets a line that says what to do."""

from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.utils import update_config

from malmen.config import check
from malmen.errors import InputError

ROOT = Path(__file__).parent.parent


def load(name, overlay=None):
    """Merge the way Snakemake does: mappings merge, lists replace."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    if name != "config":
        update_config(config, yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
    update_config(config, overlay or {})
    return config


def problems(overlay, name="config"):
    with pytest.raises(InputError) as caught:
        check(load(name, overlay))
    return str(caught.value).splitlines()


def put(path, value):
    """An overlay that sets one key: put("a.b", 1) is {"a": {"b": 1}}."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize("name", ["config", "smoke"])
def test_shipped_configurations_are_accepted(name):
    check(load(name))


def test_every_scale_has_its_own_results():
    names = ["config", "smoke", "zsre"]
    assert [load(name)["scale"] for name in names] == ["desk", "smoke", "zsre"]


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
    assert problems(sources, "zsre") == [
        "configuration: language_models.smollm2.sources.train.files: no such file: "
        f"{tmp_path / 'absent.json'}"
    ]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("scale", "desks", "scale: unknown value 'desks' (did you mean 'desk'? choices: desk, "),
        ("sacle", "desk", "unknown key 'sacle' (did you mean 'scale'? choices: scale, seed, "),
        ("run.language_models", ["smolm2"], "run.language_models[0]: unknown value 'smolm2' (did "),
        ("run.editors", ["memit"], "run.editors[0]: unknown value 'memit' (choices: malmen, "),
        ("run.editors", ["ft", "ft"], "run.editors: holds a value twice"),
        ("run.editors", [], "run.editors: must not be empty"),
        ("editors.malmen.ranks", 4, "editors.malmen: unknown key 'ranks' (did you mean 'rank'? "),
        ("language_models.smollm2.editors.ft.rank", 4, "language_models.smollm2.editors.ft: "),
        (
            "language_models.gpt5",
            {},
            "language_models: unknown key 'gpt5' (choices: fact_check",
        ),
        ("seed", "zero", "seed: expected a whole number, got 'zero'"),
        ("seed", -1, "seed: must be at least 0, got -1"),
        ("threads", 1.0, "threads: expected a whole number, got 1.0"),
        ("editors.ft.learning_rate", 0, "editors.ft.learning_rate: must be above 0, got 0"),
        ("editors.ft.learning_rate", float("nan"), "editors.ft.learning_rate: expected a number"),
        ("editors.ft.learning_rate", "1e-4", "with a point, as in 1.0e-4)"),
        ("run", None, "run: expected a mapping of keys to values, got None"),
        ("answers.edits", 65, "answers.edits: 65 is not a count that smollm2 is trained at (choic"),
        (
            "language_models.smollm2.edits",
            [16, 513],
            "language_models.smollm2.edits: 513 edits in 2 disjoint sets need 1026 rows, "
            "but rows.evaluation is 1024 (lower the count or the sets, or raise rows.evaluation)",
        ),
        (
            "language_models.smollm2.training",
            [{"edits": 64, "steps": 1}, {"edits": 2049, "steps": 1}],
            "language_models.smollm2.training: 2049 edits need 2049 rows, but rows.train is 1536",
        ),
        ("language_models.smollm2.edits", [32, 16], "counts must ascend, but 16 follows 32"),
        ("search.smollm2.sets", 5, "but rows.validation is 256"),
        ("search.smollm2.grid.ft.epochs", [5], "as many trials as the others, but: malmen 6, "),
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


def test_all_mistakes_are_named_at_once():
    lines = problems({"seed": -1, "threads": 0, "sacle": "desk"})
    assert len(lines) == 3


def test_what_does_not_run_need_not_fit():
    overlay = put("language_models.fact_checker.edits", [5000])
    check(load("config", {**overlay, "run": {"language_models": ["smollm2"]}}))


def keys(section, path=()):
    """Paths of all keys below a mapping."""
    for key, value in section.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from keys(value, (*path, key))


DESK = load("config")


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
