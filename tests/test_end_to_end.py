"""The whole chain of commands, as a user types them, on tiny language models and real facts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_folders import write_lm

from malmen.data.rows import read_rows
from malmen.lm.catalogue import lookup
from malmen.results import per_fact
from malmen.support.files import read_safetensors

ROOT = Path(__file__).parents[1]
HYPER = "--rank 8 --learning-rate 1e-3 --meta-learning-rate 1e-3 --fact-batch 4"

ALL_ROWS = "--rows rows/train.jsonl rows/validation.jsonl rows/evaluation.jsonl"
TRAINING_DATA = (
    "--rows rows/train.jsonl --prefix prefix/train.safetensors"
    " --validation-rows rows/validation.jsonl --validation-prefix prefix/validation.safetensors"
)
EVALUATION_DATA = "--rows rows/evaluation.jsonl --prefix prefix/evaluation.safetensors"

pytestmark = pytest.mark.slow


class Shell:
    """A folder to type commands in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, command: str, *paths: Path) -> "subprocess.Popen[str]":
        """Start `malmen` with the words of a command; every {} stands for a path."""
        words = [sys.executable, "-W", "error::FutureWarning", "-m", "malmen"]
        words += command.format(*paths).split()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def malmen(self, command: str, *paths: Path) -> tuple[str, str]:
        """Run a command that has to succeed; return what it wrote to stdout and to stderr."""
        process = self.start(command, *paths)
        out, err = process.communicate()
        assert process.returncode == 0, f"{command}\n{err}"
        assert "Traceback" not in err
        assert "\r" not in err
        return out, err


@pytest.fixture(scope="module")
def shell(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A tiny SmolLM2 with rows from real zsRE files and their prefix."""
    shell = Shell(tmp_path_factory.mktemp("zsre"))
    write_lm(shell.folder / "lm", "smollm2")
    zsre, nq = shared_data / "zsre", shared_data / "nq" / "nq_train_loc_pairs.jsonl.gz"
    draw = "import-rows --lm smollm2 --seed 3 --files"
    shell.malmen(
        f"{draw} {{}} --rows 16 --out rows/evaluation.jsonl",
        zsre / "zsre_mend_eval_portability_gpt4.json.gz",
    )
    derived = zsre / "derived_train_with_template_rephrases.jsonl.gz"
    exclude = "--exclude rows/evaluation.jsonl"
    shell.malmen(
        f"{draw} {{}} --unrelated {{}} {exclude} --rows 24 --out rows/train.jsonl", derived, nq
    )
    exclude += " rows/train.jsonl"
    shell.malmen(
        f"{draw} {{}} --unrelated {{}} {exclude} --rows 8 --out rows/validation.jsonl", derived, nq
    )
    _, err = shell.malmen(f"prefix --lm smollm2 --weights lm {ALL_ROWS} --out-dir prefix")
    assert err.count("frozen prefix of SmolLM2-135M: 0 of ") == 3
    return shell


def train(out: str, *, steps: int) -> str:
    return (
        f"train --editor malmen --lm smollm2 --weights lm --edits 8 --steps {steps} {HYPER}"
        f" {TRAINING_DATA} --out {out}"
    )


def test_splits_share_no_subject_and_no_question(shell: Shell) -> None:
    splits = [
        read_rows(shell.folder / "rows" / f"{split}.jsonl", "completion")
        for split in ("train", "validation", "evaluation")
    ]
    for field in ("src", "subject"):
        sets = [{getattr(row, field) for row in rows} for rows in splits]
        assert len(set().union(*sets)) == sum(map(len, sets))


def test_from_rows_to_the_summary(shell: Shell) -> None:
    started = time.time()
    _, err = shell.malmen(train("editors/malmen_8.safetensors", steps=2))
    assert "MALMEN on SmolLM2-135M, 8 edits: 0 of 2 steps" in err
    assert "MALMEN on SmolLM2-135M, 8 edits: 2 of 2 steps, L_gen " in err
    record = json.loads((shell.folder / "editors/malmen_8.json").read_text("utf-8"))
    assert_complete(record, started)
    log = pd.read_csv(shell.folder / "editors/malmen_8.csv")
    assert list(log["step"]) == [1, 2]
    assert log["validation_es"].notna().tolist() == [False, True]

    for editor, options in {
        "malmen": "--trained editors/malmen_8.safetensors@8",
        "ft": "--ft.epochs 2 --ft.fact-batch 4",
        "ultraedit": "--ultraedit.learning-rate 1e-3 --ultraedit.cached all",
    }.items():
        _, err = shell.malmen(
            f"evaluate --editor {editor} --lm smollm2 --weights lm {EVALUATION_DATA} --edits 4 8"
            f" --sets 2 --seed 5 {options} --out smoke/evaluations/smollm2/{editor}.parquet"
        )
        assert "24 of 24 facts, edits 8, ES " in err
        assert_evaluation(shell.folder / f"smoke/evaluations/smollm2/{editor}.parquet", started)
    shell.malmen(
        "answers --lm smollm2 --weights lm --rows rows/evaluation.jsonl --edits 8 --show 2"
        " --trained editors/malmen_8.safetensors --out smoke/answers/smollm2.json"
    )
    files = [
        f"smoke/evaluations/smollm2/{editor}.parquet" for editor in ("malmen", "ft", "ultraedit")
    ]
    evaluations = f"--evaluations {' '.join(files)}"
    shell.malmen(f"table --number 1 {evaluations} --out-dir smoke/tables")
    shell.malmen(f"figure --name S1 {evaluations} --out-dir smoke/figures")
    made = [
        *(f"smoke/tables/table_1.{kind}" for kind in ("md", "tex", "csv")),
        *(f"smoke/figures/figure_S1.{kind}" for kind in ("pdf", "png", "csv")),
    ]
    out, _ = shell.malmen(
        f"summary --tables {' '.join(made[:3])} --figures {' '.join(made[3:])}"
        " --answers smoke/answers/smollm2.json --out smoke/summary.md"
    )
    for path in (*made, "smoke/summary.md"):
        assert (shell.folder / path).stat().st_size > 0
        assert f"  {path}\n" in out
    assert "SmolLM2-135M, 8 edits" in out
    row = read_rows(shell.folder / "rows/evaluation.jsonl", "completion")[0]
    assert row.src in (shell.folder / "smoke/summary.md").read_text("utf-8")
    drawn = pd.read_csv(shell.folder / "smoke/figures/figure_S1.csv")
    assert set(drawn["edits"]) == {4, 8}


def assert_evaluation(path: Path, started: float) -> None:
    frame, metadata = per_fact.read(path)
    assert set(frame["lm"]) == {"smollm2"}
    assert set(frame["seed"]) == {5}
    sets = frame.groupby(["edits", "edit_set"])["fact"].agg(list).to_dict()
    assert sets == {
        (4, 0): [0, 1, 2, 3],
        (4, 1): [4, 5, 6, 7],
        (8, 0): list(range(8)),
        (8, 1): list(range(8, 16)),
    }
    assert metadata["seed"] == 5
    assert metadata["settings"]["sets"] == 2
    assert_complete(metadata, started)


def assert_complete(metadata: dict[str, Any], started: float) -> None:
    """Check what every run says of itself."""
    assert metadata["commit"] == "unknown" or len(metadata["commit"]) == 40
    assert {"python", "torch", "transformers"} <= set(metadata["versions"])
    assert {"cpu", "cores", "memory_gb", "gpu"} <= set(metadata["hardware"])
    assert 0 < metadata["wall_seconds"] < time.time() - started
    assert metadata["peak_memory_mb"] > 50
    assert metadata["created"].startswith("20")


def test_a_killed_training_goes_on_to_the_same_bits(shell: Shell) -> None:
    steps = 40
    command = train("killed/malmen_8.safetensors", steps=steps)
    killed = shell.folder / "killed"
    process = shell.start(command)
    while steps_done(killed) < 3:
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = steps_done(killed)
    assert 3 <= done < steps
    assert not [path for path in killed.iterdir() if not path.name.startswith(".")]

    _, err = shell.malmen(command)
    assert f"{done} of {steps} steps [00:00]" in err  # it did not begin again
    shell.malmen(train("whole/malmen_8.safetensors", steps=steps))
    whole = shell.folder / "whole"
    name = "malmen_8.safetensors"
    assert (killed / name).read_bytes() == (whole / name).read_bytes()
    logs = [pd.read_csv(folder / "malmen_8.csv") for folder in (killed, whole)]
    pd.testing.assert_frame_equal(*(log.drop(columns="seconds") for log in logs), check_exact=True)
    for folder in (killed, whole):
        assert not list(folder.glob(".checkpoints/*.safetensors"))


def steps_done(folder: Path) -> int:
    for path in folder.glob(".checkpoints/malmen*.safetensors"):
        return len(read_safetensors(path)[1])
    return 0


def test_from_geonames_to_figure_4(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    write_lm(tmp_path / "minilm", "minilm")
    shell.malmen("facts --out facts.jsonl")
    out, err = shell.malmen(
        "fact-checker --base minilm --facts facts.jsonl --out checker --claims 256 --held-out 32"
        " --epochs 1 --batch-size 32"
    )
    assert out == ""
    assert "fact checker on 256 claims: 8 of 8 steps" in err
    shell.malmen(
        "rows --lm fact_checker --weights checker --facts facts.jsonl --out-dir rows --train 16"
        " --validation 4 --evaluation 8"
    )
    common = "--lm fact_checker --weights checker"
    shell.malmen(f"prefix {common} {ALL_ROWS} --out-dir prefix")
    shell.malmen(
        f"train --editor mend {common} --edits 4 --steps 2 {HYPER} {TRAINING_DATA}"
        " --out mend_4.safetensors"
    )
    shell.malmen(
        f"evaluate --editor mend {common} {EVALUATION_DATA} --data geonames --edits 2 4 --sets 2"
        " --trained mend_4.safetensors@4 --out evaluations/mend.parquet"
    )
    _, metadata = per_fact.read(tmp_path / "evaluations" / "mend.parquet")
    assert [source.split()[0] for source in metadata["data"]] == ["all-MiniLM-L6-v2", "GeoNames"]
    shell.malmen("figure --name 04 --evaluations evaluations/mend.parquet --out-dir figures")
    shell.malmen("search-table --evaluations evaluations/mend.parquet --out search.csv")
    assert list(pd.read_csv(tmp_path / "search.csv")["facts"]) == [12]


@pytest.mark.parametrize("lm", ["gpt2_desk", "t5_desk", "gptj_desk"])
def test_architectures_trained_here(lm: str, shell: Shell, tmp_path: Path) -> None:
    here = Shell(tmp_path)
    write_lm(tmp_path / "lm", lm)
    shutil.copytree(shell.folder / "rows", tmp_path / "rows")
    common = f"--lm {lm} --weights lm"
    here.malmen(f"prefix {common} {ALL_ROWS} --out-dir prefix")
    here.malmen(
        f"train --editor malmen {common} --edits 8 --steps 2 {HYPER} --modules alternative"
        f" {TRAINING_DATA} --out malmen_8.safetensors"
    )
    editors = {
        "malmen": f"{EVALUATION_DATA} --modules alternative --trained malmen_8.safetensors@8",
        "ultraedit": EVALUATION_DATA,
    }
    if lookup(lm).memit:
        questions = [row.src for row in read_rows(tmp_path / "rows" / "train.jsonl", "completion")]
        (tmp_path / "texts.txt").write_text("\n".join(questions), encoding="utf-8")
        here.malmen(
            f"key-statistics {common} --texts texts.txt --samples {len(questions)}"
            " --out keys.safetensors"
        )
        editors["memit"] = (
            "--rows rows/evaluation.jsonl --statistics keys.safetensors --memit.v-steps 2"
            " --memit.contexts 2"
        )
    for editor, options in editors.items():
        here.malmen(
            f"evaluate --editor {editor} {common} --edits 4 8 --sets 2 {options}"
            f" --out {editor}.parquet"
        )
        frame, metadata = per_fact.read(tmp_path / f"{editor}.parquet")
        assert len(frame) == 24
        assert frame["pre_es"].notna().all()
        assert [entry["edits"] for entry in metadata["editing"]] == [4, 4, 8, 8]


def test_real_claims(shared_data: Path, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    write_lm(tmp_path / "checker", "fact_checker")
    common = "--lm fact_checker"
    shell.malmen(
        f"import-rows {common} --files {{}} --rows 8 --out rows.jsonl",
        shared_data / "fever" / "derived_supports_refutes_eval.jsonl.gz",
    )
    common += " --weights checker --rows rows.jsonl"
    shell.malmen(f"prefix {common} --out-dir prefix")
    shell.malmen(
        f"evaluate --editor ft {common} --prefix prefix/rows.safetensors --edits 4 --sets 2"
        " --ft.epochs 1 --out ft.parquet"
    )
    frame, _ = per_fact.read(tmp_path / "ft.parquet")
    assert len(frame) == 8
