"""The jobs of a run, as the configurations that ship ask for them."""

import re
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import cache
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from configurations import load

from malmen.__main__ import app
from malmen.experiment.cards import MALMEN, find
from malmen.experiment.jobs import (
    DIAGRAMS,
    MODULES,
    SPLITS,
    Jobs,
    code,
    fetch_code,
    moments_of,
    optional,
    options,
    trained_option,
)
from malmen.lm.catalogue import lookup

SCALES = ["config", "smoke", "zsre", "fever", "counterfact", "paper"]


def run_of(scale: str, overlay: dict[str, Any] | None = None) -> Jobs:
    return Jobs(load(scale, overlay))


@pytest.fixture(params=SCALES)
def run(request: pytest.FixtureRequest) -> Jobs:
    return run_of(request.param)


@cache
def help_of(*words: str) -> str:
    with redirect_stdout(StringIO()) as text, suppress(SystemExit):
        app.cli(prog="malmen", args=[*words, "--help"])
    return text.getvalue()


def known_options(command: str) -> set[str]:
    """Options that a subcommand of the command line has."""
    return set(re.findall(r"--[a-z.-]+", help_of(command)))


def used(text: str) -> set[str]:
    return set(re.findall(r"(?<!\S)--[a-z.-]+", text))


def values(text: str, option: str) -> str:
    found = re.search(rf"--{option} (.*?)(?= --|$)", text)
    return found[1] if found else ""


# --- options --------------------------------------------------------------------------------------


def test_options_are_words_of_the_command_line() -> None:
    settings = {"n_blocks": 2, "edits": [8, 9], "names": ("a b",), "on": True, "off_now": False}
    assert options(settings) == "--n-blocks 2 --edits 8 9 --names 'a b' --on --no-off-now"
    assert options({}) == ""


def test_files_that_are_missing_are_no_options() -> None:
    assert optional(init=[], prefix=None, memory="", texts="a b") == "--texts 'a b'"
    assert trained_option([], []) == ""
    assert trained_option([4, 8], ["a", "b"]) == "--trained a@4 b@8"
    with pytest.raises(ValueError, match="shorter"):
        trained_option([4, 8], ["a"])


def test_the_command_line_knows_every_option_of_the_configurations(run: Jobs) -> None:
    for lm in run.lms:
        for editor in run.editors(lm):
            evaluation = run.evaluation_options(lm, editor, edits=[4], sets=2)
            assert used(evaluation) <= known_options("evaluate"), editor
            if editor in run.trained:
                stage = {**next(iter(run.stages(lm).values())), "patience": 1}
                training = run.training_options(lm, editor, stage=stage)
                assert used(training) <= known_options("train"), editor
        if run.weighing(lm):
            texts = run.statistics_options(lm, run.statistics_texts())
            assert used(texts) <= known_options("key-statistics")
        if lookup(lm).built:
            assert used(run.pretraining_options(lm)) <= known_options("pretrain")
    assert used(run.memory_options()) <= known_options("memory")


def test_a_trial_changes_its_own_settings_alone(run: Jobs) -> None:
    for lm in run.lms:
        for editor in run.searched(lm):
            usual = run.evaluation_options(lm, editor, edits=4, sets=2).split(" --")
            for trial in run.trials(editor):
                tried = run.evaluation_options(lm, editor, edits=4, sets=2, **trial).split(" --")
                names = {option.split(" ")[0] for option in set(usual) ^ set(tried)}
                allowed = {f"{editor}.{key}".replace("_", "-") for key in trial}
                own = {key.replace("_", "-") for key in trial if key in {"fact_batch", "modules"}}
                assert {name.replace(".no-", ".") for name in names} <= allowed | own


# --- meta-training --------------------------------------------------------------------------------


def test_training_starts_from_what_is_trained_at_fewer_edits(run: Jobs) -> None:
    for lm in run.lms:
        for editor in run.trained:
            files = run.editor_files(lm, editor)
            assert list(files) == list(run.schedule(lm)) == sorted(files)
            assert run.warm_start(lm, editor, min(files)) == []
            for smaller, larger in pairwise(files):
                assert run.warm_start(lm, editor, larger) == [files[smaller]]
    for variant in run.variants:
        files = run.variant_files(variant)
        assert list(files) == list(run.variant_schedule())
        assert max(files) == max(run.config["ablations"]["edits"])
        assert run.variant_warm_start(variant, min(files)) == []
        for smaller, larger in pairwise(files):
            assert run.variant_warm_start(variant, larger) == [files[smaller]]


def test_one_trained_editor_may_edit_at_every_count() -> None:
    section = {"edited_by": [4], "editors_of": "zsre"}
    run = run_of("smoke", {"language_models": {"smollm2": section}})
    assert run.edited_by_one("smollm2") == [("malmen", 4), ("mend", 4)]
    assert run.edited_by_one("gpt2_desk") == []
    usual, found = run_of("smoke").evaluations(["smollm2"]), run.evaluations(["smollm2"])
    names = {Path(file).stem for file in set(found) - set(usual)}
    assert names == {"malmen_at_4", "mend_at_4"}
    files = run.editor_files("smollm2", "malmen")
    assert files == {m: f"results/zsre/editors/smollm2/malmen_{m}.safetensors" for m in (4, 8)}


def test_moments_lie_beside_the_editor_that_they_are_of() -> None:
    assert moments_of(["<results>/x.y_4.safetensors"]) == ["<results>/x.y_4.adam.safetensors"]
    assert moments_of([]) == []


@pytest.mark.parametrize("steps", [1, 8, 100, 1000])
def test_training_is_looked_at_at_a_pace_that_its_length_sets(steps: int) -> None:
    found = run_of("smoke").training_options(
        "gpt2_desk", "malmen", stage={"edits": 4, "steps": steps}
    )
    checkpoints = -(-steps // int(values(found, "checkpoint-every")))
    assert checkpoints <= 64
    assert int(values(found, "evaluate-every")) >= 8


def test_a_stage_may_set_its_pace_and_its_patience() -> None:
    stage = {"edits": 4, "steps": 100, "patience": 3, "evaluate_every": 2}
    found = run_of("smoke").training_options("gpt2_desk", "malmen", stage=stage)
    assert {name: int(values(found, name)) for name in ("patience", "evaluate-every")} == {
        "patience": 3,
        "evaluate-every": 2,
    }


def test_an_editor_without_training_has_no_trained_files(run: Jobs) -> None:
    for editor in run.references:
        is_trained = find(editor).training is not None
        assert (editor in run.trained) == is_trained
        assert all(bool(run.editor_files(lm, editor)) == is_trained for lm in run.lms)


# --- who is edited by whom ------------------------------------------------------------------------


def test_editors_are_those_of_the_run_that_a_language_model_does_not_leave_out() -> None:
    left_out = {"language_models": {"t5_desk": {"without": ["mend", "ultraedit"]}}}
    run = run_of("config", left_out)
    assert "mend" in run.editors("gpt2_desk")
    assert {"mend", "ultraedit"}.isdisjoint(run.editors("t5_desk"))
    for lm in run.lms:
        weighing = [editor for editor in run.editors(lm) if find(editor).statistics]
        assert run.weighing(lm) == weighing
        assert all(find(editor).edits(lookup(lm)) for editor in run.editors(lm))


def test_a_language_model_changes_the_common_hyper_parameters() -> None:
    overlay = {
        "editors": {"mend": {"clip": 0.5, "rank": 8}},
        "language_models": {"gpt2_desk": {"editors": {"mend": {"clip": 0.25}}}},
    }
    run = run_of("config", overlay)
    assert run.hyper_parameters("gpt2_desk", "mend")["clip"] == 0.25
    assert run.hyper_parameters("gpt2_desk", "mend")["rank"] == 8
    assert run.hyper_parameters("t5_desk", "mend")["clip"] == 0.5
    resolved = run.resolved_settings()["gpt2_desk"]
    assert resolved["editors"]["mend"] == run.hyper_parameters("gpt2_desk", "mend")
    assert list(resolved["editors"]) == run.editors("gpt2_desk")


def test_an_editor_is_given_what_its_card_says(run: Jobs) -> None:
    for editor in run.references:
        card = find(editor)
        assert bool(run.statistics("lm", editor)) == card.statistics
        assert bool(run.prefix("lm", "train", editor)) == card.takes_prefix


def test_answers_are_those_of_a_language_model_that_runs() -> None:
    run = run_of("config")
    asked = run.config["answers"]["language_model"]
    assert run.answering == [asked]
    others = [lm for lm in run.lms if lm != asked]
    assert run_of("config", {"run": {"language_models": others}}).answering == []
    assert run_of("config", {"run": {"editors": ["ft", "mend"]}}).answering == []


# --- files ----------------------------------------------------------------------------------------


def test_rows_repeat_none_of_the_splits_drawn_before() -> None:
    run = run_of("zsre")
    (lm,) = run.lms
    earlier = {split: run.earlier_splits(lm, split) for split in SPLITS}
    for one in SPLITS:
        for other in SPLITS:
            one_first = run.rows(lm, one) in earlier[other]
            other_first = run.rows(lm, other) in earlier[one]
            assert one_first + other_first == (one != other)


def test_downloaded_files_lie_where_the_rule_puts_them() -> None:
    files = {"files": ["download:zsre_mend_eval.json", "mine.json"], "unrelated": "mine.json"}
    sources = {"language_models": {"smollm2": {"sources": dict.fromkeys(SPLITS, files)}}}
    assert run_of("zsre", sources).source_files("smollm2", "train") == {
        "files": ["<resources>/data/zsre_mend_eval.json", "mine.json"],
        "unrelated": "mine.json",
    }


def test_what_a_run_does_not_measure_it_does_not_draw() -> None:
    run = run_of("config")
    assert {"2"} < set(run.tables)
    assert "08" in run.figures
    without = [lm for lm in run.lms if lm not in {run.ablated, run.measured}]
    fewer = run_of("config", {"run": {"language_models": without}})
    assert set(run.tables) - set(fewer.tables) == {"2"}
    assert "08" not in fewer.figures
    assert len(fewer.curves) == len(without)
    assert not [file for file in fewer.run_files() if "ablations" in file or "memory" in file]


def test_every_figure_and_table_is_made_of_files_of_the_run(run: Jobs) -> None:
    made = {*run.run_files(), *run.ablations(), *run.memory_files(), "<results>/settings.json"}
    made |= {run.rows(lm, split) for lm in run.lms for split in SPLITS}
    made |= {*map(run.weights, run.lms), "<results>/facts.jsonl"}
    inputs = [run.table_inputs(number) for number in run.tables]
    inputs += run.figures.values()
    for files in (files for by_option in inputs for files in by_option.values()):
        assert {files} <= made if isinstance(files, str) else set(files) <= made
    assert not set(run.figures) & set(DIAGRAMS)


def test_no_two_jobs_make_the_same_file(run: Jobs) -> None:
    made = [*run.run_files(), *run.table_files(), *run.figure_files(), *run.searches()]
    made += [f for lm in run.lms for e in run.trained for f in run.editor_files(lm, e).values()]
    made += [file for name in run.variants for file in run.variant_files(name).values()]
    assert len(made) == len(set(made))


def test_a_variant_is_its_editor_and_what_it_changes(run: Jobs) -> None:
    for variant, changes in run.variants.items():
        editor = run.variant_editor(variant)
        assert editor == changes.get("editor", MALMEN.name)
        stage = next(iter(run.stages(run.ablated).values()))
        usual = run.training_options(run.ablated, editor, stage=stage)
        changed = run.variant_changes(variant)
        assert "editor" not in changed
        found = run.training_options(run.ablated, editor, stage=stage, **changed)
        differ = used(found) ^ used(usual)
        assert differ or any(values(found, o[2:]) != values(usual, o[2:]) for o in used(usual))


# --- code -----------------------------------------------------------------------------------------


def test_a_digest_is_of_a_command_its_editor_and_its_language_model() -> None:
    assert set(MODULES) <= set(re.findall(r"• ([a-z-]+)", help_of()))
    digests = [code(command) for command in MODULES]
    digests += [code("evaluate", editor) for editor in ("malmen", "ft")]
    digests += [code("evaluate", "ft", lm=lm) for lm in ("gpt2_desk", "t5_desk")]
    assert len(set(digests)) == len(digests)
    assert code("evaluate", "ft") == code("evaluate", "ft")


def test_weights_from_the_hub_stay_when_code_is_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    packaged, hub = "smollm2", "gpt2"
    assert fetch_code(packaged) == code("fetch", lm=packaged)
    before = fetch_code(hub)
    monkeypatch.setattr("malmen.experiment.jobs.code", lambda *_, **__: "edited")
    assert fetch_code(packaged) == "edited"
    assert fetch_code(hub) == before
    entry = replace(lookup(hub), dtype="bfloat16")
    monkeypatch.setattr("malmen.experiment.jobs.lookup", lambda _: entry)
    assert fetch_code(hub) != before


def test_planning_the_jobs_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "pandas", "numpy", "matplotlib"}
    program = f"import malmen.experiment.jobs, sys; print({heavy!r} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr


def test_rules_leave_the_logic_to_the_library() -> None:
    rules = Path(__file__).parents[2] / "workflow" / "rules"
    assert len((rules / "common.smk").read_text().splitlines()) <= 200
