"""The workflow through the real `snakemake`, with a stand-in for `malmen` that only makes files.

The stand-in writes down every call, so the tests see the order of jobs and their options; what the
commands compute is tested elsewhere.
"""

import re
from collections import Counter, defaultdict
from contextlib import redirect_stdout, suppress
from io import StringIO
from math import prod
from pathlib import Path

import pytest
from checkouts import Checkout, commands, options_of
from configurations import load
from snakemake.ioutils import register_in_globals

from malmen.__main__ import app
from malmen.experiment.published_settings import trials as tried
from malmen.lm.catalogue import lookup

ROOT = Path(__file__).parent.parent
FINISHED = {
    "run": {"language_models": ["fact_checker", "gpt2_desk"]},
    "answers": {"language_model": "gpt2_desk"},
}


def jobs(run):
    """Number of jobs by rule, from the last table that Snakemake printed."""
    assert run.returncode == 0, run.stdout + run.stderr
    text = run.stdout + run.stderr
    if "Nothing to be done" in text:
        return Counter()
    table = text.rpartition("Job stats:")[2].partition("total")[0]
    return Counter({name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)})


def changed(run):
    """Outputs whose parameters changed, from a run with `--summary`."""
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    return {row[0] for row in rows if "params changed" in row}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A checkout in which nothing has run."""
    return Checkout.create(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def planned(fresh):
    """Dry runs of every scale where nothing has run, with the commands that they would call."""
    (fresh.folder / "rows.json").touch()
    training = {"files": ["rows.json"], "unrelated": "rows.json"}
    downloaded = {"files": ["download:zsre_mend_eval.json"]}
    sources = {"train": training, "validation": training, "evaluation": downloaded}
    zsre = {"language_models": {"smollm2": {"sources": sources}}}
    return {
        "desk": fresh.snakemake("-n", "-p"),
        "smoke": fresh.snakemake("-n", "-p", scale="smoke"),
        "zsre": fresh.snakemake("-n", "-p", scale="zsre", overlay=zsre),
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout in which "smoke" has run for two language models, one job at a time."""
    checkout = Checkout.create(tmp_path_factory.mktemp("finished"))
    checkout.overlay = FINISHED
    run = checkout.snakemake(scale="smoke", cores=1)
    assert run.returncode == 0, run.stdout + run.stderr
    return checkout


CONFIGS = {"desk": load("config"), "smoke": load("smoke")}
VARIANTS = CONFIGS["desk"]["ablations"]["variants"]


def editors_of(config, lm):
    """Editors that a language model is edited by."""
    out = set(config["language_models"][lm].get("without", []))
    if not lookup(lm).memit:
        out.add("memit")
    return [editor for editor in config["run"]["editors"] if editor not in out]


def expected_jobs(config):
    """Jobs that make rows, editors and evaluations, as the configuration says."""
    lms = config["run"]["language_models"]
    stages = {lm: len(config["language_models"][lm]["training"]) for lm in lms}
    trained = {lm: len({"malmen", "mend"} & set(editors_of(config, lm))) for lm in lms}
    packages = {origin.name for lm in lms if (origin := lookup(lm).origin)}
    return {
        "facts": 1,
        "fetch": len(packages),
        "fact_checker": sum(lookup(lm).base is not None for lm in lms),
        "pretrain": sum(lookup(lm).built is not None for lm in lms),
        "rows": len(lms),
        "prefix": len(lms),
        "key_statistics": sum("memit" in editors_of(config, lm) for lm in lms),
        "train": sum(stages[lm] * trained[lm] for lm in lms),
        "evaluate": sum(len(editors_of(config, lm)) for lm in lms),
        "answers": int(config["answers"]["language_model"] in lms),
        "summary": 1,
        "all": 1,
    }


@pytest.mark.parametrize("scale", ["desk", "smoke"])
def test_a_scale_is_the_whole_reproduction(planned, scale):
    count = jobs(planned[scale])
    expected = expected_jobs(CONFIGS[scale])
    assert {rule: count[rule] for rule in expected} == expected
    assert count["figure"] > 0
    assert count["table"] > 0


def test_snakemakes_own_report_shows_what_a_run_made(finished):
    run = finished.snakemake("--report", "report.html", scale="smoke")
    assert run.returncode == 0, run.stdout + run.stderr
    shown = set(re.findall(r"Adding (\S+) ", run.stdout + run.stderr))
    folder = finished.folder / "results" / "smoke"
    pages = [*folder.glob("tables/*"), *folder.glob("figures/*"), *folder.glob("claims.*")]
    assert shown == {path.name for path in (*pages, folder / "report.html")}


def test_smoke_is_the_same_workflow(planned):
    depends_on_counts = {"train", "ablation_train"}
    desk, smoke = (
        {rule: n for rule, n in jobs(planned[scale]).items() if rule not in depends_on_counts}
        for scale in ("desk", "smoke")
    )
    assert smoke == desk


def test_one_figure_needs_only_its_language_model(fresh):
    run = fresh.snakemake("-n", "results/desk/figures/figure_04.pdf")
    alone = load("config", {"run": {"language_models": ["fact_checker"]}})
    expected = {rule: n for rule, n in expected_jobs(alone).items() if n}
    for rule in ("summary", "all"):
        del expected[rule]
    assert jobs(run) == expected | {"figure": 1}
    assert not re.search("smollm2|_desk", run.stdout + run.stderr)


def test_search_gives_equal_trials(fresh):
    config = load("config")
    search = jobs(fresh.snakemake("-n", "search"))
    grids = config["search"]["grid"]
    (trials,) = {len(tried(editor, grid)) for editor, grid in grids.items()}
    assert all(
        len(tried(editor, grid)) == prod(map(len, grid.values())) + 1  # the published ones
        for editor, grid in grids.items()
    )
    lms = config["run"]["language_models"]
    assert search["search_train"] == len(lms) * 2 * trials  # MALMEN and MEND
    assert search["search_evaluate"] == trials * sum(len(editors_of(config, lm)) for lm in lms)
    assert search["search_table"] == sum(len(editors_of(config, lm)) for lm in lms)
    assert "evaluate" not in search


def test_editors_left_out_are_not_run(fresh):
    overlay = {"language_models": {"t5_desk": {"without": ["mend", "ultraedit"]}}}
    run = fresh.snakemake("-n", "-p", overlay=overlay)
    config = load("config", overlay)
    assert {"mend", "ultraedit"}.isdisjoint(editors_of(config, "t5_desk"))
    count, expected = jobs(run), expected_jobs(config)
    for rule in ("train", "evaluate", "key_statistics"):
        assert count[rule] == expected[rule]
    text = run.stdout + run.stderr
    for lm in config["run"]["language_models"]:
        for editor in config["editors"]:
            is_run = f"--out results/desk/evaluations/{lm}/{editor}.parquet" in text
            assert is_run == (editor in editors_of(config, lm)), (lm, editor)


@pytest.mark.parametrize("scale", ["desk", "smoke"])
def test_a_variant_is_trained_up_to_the_counts_it_is_evaluated_at(planned, scale):
    ablations = CONFIGS[scale]["ablations"]
    stages = [
        stage["edits"]
        for stage in CONFIGS[scale]["language_models"][ablations["language_model"]]["training"]
        if stage["edits"] <= max(ablations["edits"])
    ]
    folder = f"{scale}/ablations/{ablations['language_model']}"
    trained = commands(planned[scale], "train", out=folder)
    evaluated = commands(planned[scale], "evaluate", out=folder)
    count = jobs(planned[scale])
    assert len(trained) == len(stages) * len(ablations["variants"]) == count["ablation_train"]
    assert len(evaluated) == len(ablations["variants"]) == count["ablation_evaluate"]
    for variant in ablations["variants"]:
        mine = [call for call in trained if f"/{variant}_" in call]
        edits = sorted(int(re.search(r"--edits (\d+)", call)[1]) for call in mine)
        assert edits == stages
        starts = [re.search(rf"--init \S+/{variant}_(\d+)", call) for call in mine]
        assert sorted(int(s[1]) for s in starts if s) == stages[:-1]
        (call,) = [call for call in evaluated if f"/{variant}.parquet" in call]
        assert f"--edits {' '.join(map(str, ablations['edits']))} --" in call


def test_a_variant_changes_what_it_says_and_nothing_else(planned):
    lm, variants = (CONFIGS["desk"]["ablations"][key] for key in ("language_model", "variants"))
    unchanged = commands(planned["desk"], "train", out=f"desk/editors/{lm}")
    usual = options_of(next(call for call in unchanged if "--editor malmen " in call))
    trained = commands(planned["desk"], "train", out=f"desk/ablations/{lm}")
    evaluated = commands(planned["desk"], "evaluate", out=f"desk/ablations/{lm}")
    for variant, changes in variants.items():
        found = options_of(next(call for call in trained if f"/{variant}_" in call))
        if changes.get("editor", "malmen") == "malmen":
            differ = {key for key in found | usual if found.get(key) != usual.get(key)}
            of_run = {"--init", "--moments", "--edits", "--steps", "--out"}
            names = {key.removeprefix("--no-").strip("-") for key in differ - of_run}
            assert names == {key.replace("_", "-") for key in changes}
        for key, value in changes.items():
            if isinstance(value, bool):
                assert (f"--{key}" if value else f"--no-{key}").replace("_", "-") in found
            else:
                assert found[f"--{key}".replace("_", "-")] == value
        found = options_of(next(call for call in evaluated if f"/{variant}.parquet" in call))
        assert found["--editor"] == changes.get("editor", "malmen")
        # Which modules are edited is decided when the language model is loaded.
        assert found.get("--modules") == changes.get("modules")


def test_real_files_replace_the_made_ones(planned):
    count, config = jobs(planned["zsre"]), load("zsre")
    assert count["import_rows"] == 3
    assert not {"rows", "fact_checker", "pretrain"} & set(count)
    assert count["evaluate"] == len(editors_of(config, "smollm2"))
    folder = "results/zsre/rows/smollm2"
    number = config["language_models"]["smollm2"]["rows"]["validation"]
    exclude = f"--exclude {folder}/evaluation.jsonl {folder}/train.jsonl --rows {number}"
    text = planned["zsre"].stdout + planned["zsre"].stderr
    assert f"--files rows.json --unrelated rows.json {exclude}" in text
    assert "--files resources/data/zsre_mend_eval.json --rows" in text
    assert count["download"] == 1
    assert "--out-dir resources/data zsre_mend_eval.json" in text
    assert not re.search("fact_checker|_desk", text)


def test_every_option_is_known_to_the_command_line(fresh, planned):
    used = defaultdict(set)
    for run in (*planned.values(), fresh.snakemake("-n", "-p", "search", "verify")):
        for command, words in re.findall(r"malmen ([a-z-]+) (--.*) 2> ", run.stdout + run.stderr):
            used[command] |= set(re.findall(r"--[a-z.-]+", words))
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    assert set(used) == set(re.findall(r'"malmen ([a-z-]+)', rules))
    for command, options in used.items():
        with redirect_stdout(StringIO()) as known, suppress(SystemExit):
            app.cli(prog="malmen", args=[command, "--help"])
        assert options <= set(re.findall(r"--[a-z.-]+", known.getvalue())), command


@pytest.mark.slow
def test_a_dry_run_of_the_papers_scale_shows_what_it_takes(fresh):
    run = fresh.snakemake("-n", scale="paper")
    count, config = jobs(run), load("paper")
    expected = expected_jobs(config) | {"facts": 0, "rows": 0}
    assert {rule: count[rule] for rule in expected} == expected
    splits = 3 * len(config["run"]["language_models"])
    assert (count["import_rows"], count["download"]) == (splits, 4)
    lines = [line.split("|") for line in run.stdout.splitlines() if line.startswith("|")]
    rules = {line[1].strip() for line in lines[2:-1]}
    assert rules == {
        *("download", "fetch", "fact_checker", "prefix", "key_statistics"),
        *("train", "ablation_train", "evaluate"),
    }
    assert "this machine is too small: " in run.stdout or "large enough." in run.stdout


@pytest.mark.slow
def test_the_papers_scale_does_not_begin_where_it_does_not_fit(fresh):
    rows = {"train": 2**40, "validation": 128, "evaluation": 16384}
    overlay = {
        "run": {"language_models": ["gpt2"]},
        "language_models": {"gpt2": {"rows": rows}},
    }
    target = "results/paper/settings.json"
    run = fresh.snakemake(target, scale="paper", overlay=overlay)
    assert run.returncode == 2
    (error,) = [line for line in run.stderr.splitlines() if line.startswith("malmen: error: ")]
    assert re.search(r"too small: [\d,]+ GB of disk are needed, [\d,]+ GB are free", error)
    assert "Traceback" not in run.stdout + run.stderr
    overlay["machine"] = "ignore"
    run = fresh.snakemake(target, scale="paper", overlay=overlay)
    assert run.returncode == 0, run.stderr
    (fresh.folder / target).unlink()


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"scale": "Large!"}, "scale: 'Large!' does not match"),
        ({"language_models": {"smollm2": {"edits": [4, 9]}}}, "9 edits in 2 disjoint sets need 18"),
    ],
)
def test_a_bad_configuration_ends_in_one_line(fresh, overlay, message):
    run = fresh.snakemake("-n", scale="smoke", overlay=overlay)
    assert run.returncode == 2
    errors = [line for line in run.stderr.splitlines() if "error" in line.lower()]
    assert len(errors) == 1
    assert errors[0].startswith("malmen: error: configuration: ")
    assert message in errors[0]
    assert "Traceback" not in run.stdout + run.stderr


def test_a_second_run_has_nothing_to_do(finished):
    run = finished.snakemake(scale="smoke")
    assert run.returncode == 0
    assert "Nothing to be done" in run.stdout + run.stderr


def test_every_job_leaves_a_log_and_a_benchmark(finished):
    results = finished.folder / "results" / "smoke"
    number = len((finished.folder / "calls.log").read_text().splitlines())
    logs = [path.read_text() for path in (results / "logs").rglob("*.log")]
    assert len([text for text in logs if text.endswith(" begins\n")]) == number
    assert len(list((results / "benchmarks").rglob("*.jsonl"))) == number
    assert (results / "logs" / "facts.log").read_text() == "facts begins\n"


def test_the_soonest_figure_comes_first(finished):
    lines = (finished.folder / "calls.log").read_text().splitlines()
    figure = next(i for i, line in enumerate(lines) if line.startswith("figure --name 05"))
    # Only what needs no other language model may come before.
    named = {name for line in lines[:figure] for name in re.findall(r"--lm (\w+)", line)}
    assert named == {"gpt2_desk"}


def test_training_starts_from_the_smaller_count(finished):
    starts = {}
    for call in finished.calls("train"):
        init = re.search(r"--init (\S+)", call)
        out = re.search(r"--out (\S+)", call)[1]
        starts[out] = init and init[1]
        moments = re.search(r"--moments (\S+)", call)  # of the very run that made the start
        assert (moments and moments[1]) == (init and init[1].replace(".safe", ".adam.safe"))
    for lm in FINISHED["run"]["language_models"]:
        for editor in ("malmen", "mend"):
            smaller, larger = (
                f"results/smoke/editors/{lm}/{editor}_{edits}.safetensors" for edits in (4, 8)
            )
            assert starts[smaller] is None
            assert starts[larger] == smaller


def test_evaluation_is_given_what_its_editor_needs(finished):
    calls = {
        re.search(r"--editor (\w+)", call)[1]: options_of(call)
        for call in finished.calls("evaluate")
        if "--out results/smoke/evaluations/gpt2_desk/" in call
    }
    assert set(calls) == {"malmen", "mend", "ft", "ultraedit", "memit"}
    folder = "results/smoke/editors/gpt2_desk"
    for editor, options in calls.items():
        trained = f"{folder}/{editor}_4.safetensors@4 {folder}/{editor}_8.safetensors@8"
        is_trained = editor in ("malmen", "mend")
        assert options["--so-far"] == "results/smoke/evaluations"
        assert options.get("--trained") == (trained if is_trained else None)
        assert options["--edits"] == "4 8"
        is_memit = editor == "memit"
        assert ("--prefix" in options) != is_memit
        assert ("--statistics" in options) == is_memit
        own = {name for name in options if name.startswith(f"--{editor}.")}
        assert bool(own) != is_trained  # a trained editor brings its own
        assert {name for name in options if "." in name} == own
    assert calls["ft"]["--ft.weight-decay"] == "0.0005"


def test_a_hyper_parameter_reruns_only_what_depends_on_it(finished):
    overlay = {"language_models": {"gpt2_desk": {"editors": {"mend": {"clip": 0.5}}}}}
    trained = [
        *("editors/gpt2_desk/mend_4", "editors/gpt2_desk/mend_8"),
        "ablations/gpt2_desk/sum_4",
    ]
    assert changed(finished.snakemake("--summary", scale="smoke", overlay=overlay)) == {
        "results/smoke/settings.json",
        *(
            f"results/smoke/{stem}.{end}"
            for stem in trained
            for end in ("safetensors", "adam.safetensors", "json", "csv")
        ),
    }
    count = jobs(finished.snakemake("-n", scale="smoke", overlay=overlay))
    assert count["train"] == 2
    assert count["evaluate"] == 1
    assert count["ablation_train"] == 1  # the variant that is MEND with one setting changed
    assert not {"fetch", "facts", "fact_checker", "pretrain", "rows", "prefix"} & set(count)
    assert {"table", "figure", "summary"} <= set(count)


def test_a_new_scale_shares_only_the_packages(finished):
    count = jobs(finished.snakemake("-n"))
    expected = expected_jobs(load("config", FINISHED))
    assert count["fetch"] == 0
    assert {rule: count[rule] for rule in expected} == expected | {"fetch": 0}


@pytest.mark.parametrize(
    ("module", "patterns"),
    [
        (
            "baselines/mend.py",
            [
                *("*/editors/*/mend_*", "*/evaluations/*/mend.parquet", "*/ablations/*/sum*"),
                "smoke/memory.*",
            ],
        ),
        ("baselines/fine_tuning.py", ["*/evaluations/*/ft.parquet"]),
        (
            "malmen/malmen.py",
            [
                *("*/editors/*/malmen_*", "*/malmen.parquet", "*/answers/*.json", "smoke/memory.*"),
                *(f"*/ablations/*/{v}*" for v in VARIANTS if v != "sum"),
            ],
        ),
        ("baselines/key_statistics.py", ["smoke/statistics/*", "*/evaluations/*/memit.parquet"]),
        (  # which trained editor edits at which count
            "malmen/experiment/evaluate.py",
            ["*/evaluations/*/*.parquet", "*/ablations/*/*.parquet"],
        ),
        ("malmen/tables/__init__.py", ["*/tables/*"]),
        (  # another colour trains nothing again
            "malmen/experiment/cards.py",
            [
                *("*/tables/*", "*/figures/figure_0[458].*", "*/figures/figure_LC.*"),
                *("smoke/claims.*", "smoke/report.html"),
            ],
        ),
    ],
)
def test_an_edited_module_reruns_what_uses_it(finished, tmp_path, module, patterns):
    checkout = finished.copy(tmp_path)
    path = checkout.folder / module
    path.write_text(path.read_text() + "\n# edited\n")
    every = [p.relative_to(checkout.folder) for p in checkout.folder.glob("re[s]*/**/*")]
    expected = {str(p) for p in every if any(p.match(pattern) for pattern in patterns)}
    assert expected
    assert changed(checkout.snakemake("--summary", scale="smoke")) == expected


def test_touching_a_module_reruns_nothing(finished, tmp_path):
    checkout = finished.copy(tmp_path)
    for path in checkout.folder.glob("malmen/**/*.py"):
        path.touch()
    assert jobs(checkout.snakemake("-n", scale="smoke")) == {}


def test_a_failing_command_fails_the_run_and_shows_its_log(finished, tmp_path):
    checkout = finished.copy(tmp_path)
    (checkout.folder / "results/smoke/tables/table_1.md").unlink()
    run = checkout.snakemake(scale="smoke", FAILING="table")
    assert run.returncode != 0
    assert "the stand-in fails as told" in run.stdout + run.stderr
    log = checkout.folder / "results/smoke/logs/table_1.log"
    assert "the stand-in fails as told" in log.read_text()
    assert not (checkout.folder / "results/smoke/tables/table_1.csv").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "workflow" / "rules").glob("*.smk")), ids=str)
def test_no_setting_hides_in_what_snakemake_derives_from_files(path):
    """A parameter that looks at files is not among those whose change runs a job again."""
    pattern = r"(\w+)=lambda wildcards, (?:in|out)put(?:, output)?:(.*?)\n        (?=\w)"
    derived = dict(re.findall(pattern, path.read_text(), re.DOTALL))
    derived.pop("trained", None)  # its counts are options, too
    assert not [name for name, text in derived.items() if "settings(" in text or "config[" in text]


@pytest.mark.parametrize("path", sorted((ROOT / "workflow" / "rules").glob("*.smk")), ids=str)
def test_no_name_hides_one_of_snakemakes(path):
    offered = {}
    register_in_globals(offered)
    text = path.read_text()
    imported = re.findall(r"^(?:from \S+ )?import (.+)$", text, re.MULTILINE)
    bound = {name.split(" as ")[-1].strip() for line in imported for name in line.split(",")}
    bound |= set(re.findall(r"^(?:def )?(\w+)(?:\(.*\):| = .*)$", text, re.MULTILINE))
    assert not bound & offered.keys()
