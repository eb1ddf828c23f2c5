"""The workflow through the real `snakemake`, with a stand-in for `malmen` that only makes files.

The stand-in writes down every call, so the tests see the order of jobs and their options; what the
commands compute is tested elsewhere.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SNAKEMAKE = Path(sys.executable).with_name("snakemake")

STAND_IN = """\
#!{python} -IS
import os, sys
command, *words = sys.argv[1:]
options = {{}}
for word in words:
    if word.startswith("--"):
        options[word] = values = []
    else:
        values.append(word)
with open("calls.log", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
print(command, "begins", file=sys.stderr)
if command == os.environ.get("FAILING"):
    sys.exit("the stand-in fails as told")
for path in options.get("--out", []):
    if command in ("fetch", "fact-checker"):
        os.makedirs(path)
    else:
        open(path, "w").close()
    if command == "train":
        for suffix in (".json", ".csv"):
            open(path.replace(".safetensors", suffix), "w").close()
for folder in options.get("--out-dir", []):
    names = {{
        "rows": [split + ".jsonl" for split in ("train", "validation", "evaluation")],
        "table": ["table_%s.%s" % (options.get("--number", [""])[0], end)
                  for end in ("md", "tex", "csv")],
        "figure": ["figure_%s.%s" % (options.get("--name", [""])[0], end)
                   for end in ("pdf", "png", "csv")],
    }}[command]
    for name in names:
        open(os.path.join(folder, name), "w").close()
"""


class Checkout:
    """A copy of the repository's workflow and code, without results, to run Snakemake in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> "Checkout":
        for name in ("workflow", "config", "profiles", "malmen", "baselines"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("Snakefile", "environment.yml"):
            shutil.copy(ROOT / name, folder)
        stand_in = folder / "bin" / "malmen"
        stand_in.parent.mkdir()
        stand_in.write_text(STAND_IN.format(python=sys.executable))
        stand_in.chmod(0o755)
        return cls(folder)

    def copy(self, folder: Path) -> "Checkout":
        """Another one, with the same results and Snakemake's record of them."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Checkout(folder)

    def snakemake(self, *arguments, overlay=None, scale=None, cores=2, **environment):
        """Run Snakemake; `overlay` is a mapping over the scale's configuration."""
        files = [f"config/{scale}.yaml"] if scale else []
        if overlay is not None:
            (self.folder / "overlay.yaml").write_text(yaml.safe_dump(overlay))
            files.append("overlay.yaml")
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        command = [SNAKEMAKE, "--cores", cores, "--nocolor", *arguments]
        command += ["--configfile", *files] if files else []
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env={**os.environ, "PATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self, command):
        """Calls of one subcommand so far, in the order in which they began."""
        lines = (self.folder / "calls.log").read_text().splitlines()
        return [line for line in lines if line.startswith(command + " ")]


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
def finished(tmp_path_factory):
    """A checkout in which the scale "smoke" has run, one job at a time."""
    checkout = Checkout.create(tmp_path_factory.mktemp("finished"))
    run = checkout.snakemake(scale="smoke", cores=1)
    assert run.returncode == 0, run.stdout + run.stderr
    return checkout


DESK = {
    "facts": 1,
    "fetch": 2,
    "fact_checker": 1,
    "rows": 2,
    "prefix": 6,
    "train": 14,
    "evaluate": 6,
    "answers": 1,
    "table": 1,
    "figure": 2,
    "summary": 1,
    "all": 1,
}


def test_desk_is_the_whole_reproduction(fresh):
    assert jobs(fresh.snakemake("-n")) == DESK


def test_smoke_is_the_same_workflow(fresh):
    smoke = jobs(fresh.snakemake("-n", scale="smoke"))
    assert smoke.pop("train") == 8
    assert smoke == {rule: n for rule, n in DESK.items() if rule != "train"}


def test_one_figure_needs_only_its_language_model(fresh):
    run = fresh.snakemake("-n", "results/desk/figures/figure_04.pdf")
    expected = {"facts": 1, "fetch": 1, "fact_checker": 1, "rows": 1, "prefix": 3}
    assert jobs(run) == expected | {"train": 6, "evaluate": 3, "figure": 1}
    assert "smollm2" not in run.stdout + run.stderr


def test_search_gives_equal_trials(fresh):
    search = jobs(fresh.snakemake("-n", "search"))
    # 2 language models x 3 editors x 6 trials; fine-tuning has nothing to train.
    assert search["search_train"] == 2 * 2 * 6
    assert search["search_evaluate"] == 2 * 3 * 6
    assert search["search_table"] == 2 * 3
    assert "evaluate" not in search


def test_real_files_replace_the_made_ones(fresh):
    for name in ("train.json", "unrelated.json", "evaluation.json"):
        (fresh.folder / name).touch()
    training = {"files": ["train.json"], "unrelated": "unrelated.json"}
    sources = {"train": training, "validation": training}
    sources["evaluation"] = {"files": ["evaluation.json"]}
    overlay = {"language_models": {"smollm2": {"sources": sources}}}
    run = fresh.snakemake("-n", "-p", scale="zsre", overlay=overlay)
    count = jobs(run)
    assert count["import_rows"] == 3
    assert not {"rows", "facts", "fact_checker"} & set(count)
    assert "fact_checker" not in run.stdout + run.stderr
    folder = "results/zsre/rows/smollm2"
    exclude = f"--exclude {folder}/evaluation.jsonl {folder}/train.jsonl --rows 256"
    assert f"--files train.json --unrelated unrelated.json {exclude}" in run.stdout + run.stderr


def test_every_option_is_known_to_the_command_line(fresh):
    (fresh.folder / "rows.json").touch()
    source = {"files": ["rows.json"], "unrelated": "rows.json"}
    sources = dict.fromkeys(("train", "validation", "evaluation"), source)
    runs = [
        fresh.snakemake("-n", "-p", "all", "search"),
        fresh.snakemake(
            "-n", "-p", scale="zsre", overlay={"language_models": {"smollm2": {"sources": sources}}}
        ),
    ]
    used = defaultdict(set)
    for run in runs:
        for command, words in re.findall(r"malmen ([a-z-]+) (--.*) 2> ", run.stdout + run.stderr):
            used[command] |= set(re.findall(r"--[a-z-]+", words))
    assert len(used) == 13
    for command, options in used.items():
        known = subprocess.run(
            [sys.executable, "-m", "malmen", command, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert options <= set(re.findall(r"--[a-z-]+", known)), command


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"scale": "large"}, "scale: unknown value 'large' (choices: desk, smoke, zsre)"),
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
    assert len(list((results / "logs").rglob("*.log"))) == number
    assert len(list((results / "benchmarks").rglob("*.jsonl"))) == number
    assert (results / "logs" / "facts.log").read_text() == "facts begins\n"


def test_the_fact_checkers_figure_comes_first(finished):
    lines = (finished.folder / "calls.log").read_text().splitlines()
    figure = next(i for i, line in enumerate(lines) if line.startswith("figure --name 04"))
    # Only what needs no language model may come before; nothing may ask SmolLM2 anything.
    assert not [line for line in lines[:figure] if "--weights resources/lm/smollm2" in line]


def test_training_starts_from_the_smaller_count(finished):
    starts = {}
    for call in finished.calls("train"):
        init = re.search(r"--init (\S+)", call)
        out = re.search(r"--out (\S+)", call)[1]
        starts[Path(out).stem, "smollm2" in out] = init and Path(init[1]).stem
    for editor in ("malmen", "mend"):
        for is_smollm2 in (False, True):
            assert starts[f"{editor}_4", is_smollm2] is None
            assert starts[f"{editor}_8", is_smollm2] == f"{editor}_4"


def test_evaluation_is_given_every_trained_editor(finished):
    call = next(c for c in finished.calls("evaluate") if "--editor mend --lm smollm2" in c)
    folder = "results/smoke/editors/smollm2"
    trained = f"--trained {folder}/mend_4.safetensors@4 {folder}/mend_8.safetensors@8"
    assert f"{trained} --edits 4 8 --sets 2 --seed 0 --" in call
    call = next(c for c in finished.calls("evaluate") if "--editor ft --lm smollm2" in c)
    assert "--trained" not in call
    assert "--weight-decay 0.0005" in call


def test_a_hyper_parameter_reruns_only_what_depends_on_it(finished):
    overlay = {"language_models": {"smollm2": {"editors": {"mend": {"clip": 0.5}}}}}
    assert changed(finished.snakemake("--summary", scale="smoke", overlay=overlay)) == {
        f"results/smoke/editors/smollm2/mend_{edits}.{suffix}"
        for edits in (4, 8)
        for suffix in ("safetensors", "json", "csv")
    }
    run = finished.snakemake("-n", scale="smoke", overlay=overlay)
    expected = {"train": 2, "evaluate": 1, "table": 1, "figure": 1, "summary": 1, "all": 1}
    assert jobs(run) == expected


def test_a_new_scale_shares_only_the_packages(finished):
    count = jobs(finished.snakemake("-n"))
    assert count == {rule: n for rule, n in DESK.items() if rule != "fetch"}


@pytest.mark.parametrize(
    ("module", "patterns"),
    [
        ("baselines/mend.py", ["*/editors/*/mend_*", "*/evaluations/*/mend.parquet"]),
        ("baselines/fine_tuning.py", ["*/evaluations/*/ft.parquet"]),
        ("malmen/malmen.py", ["*/editors/*/malmen_*", "*/malmen.parquet", "*/smollm2.json"]),
        ("malmen/tables.py", ["*/tables/*"]),
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
    for path in checkout.folder.glob("malmen/*.py"):
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
