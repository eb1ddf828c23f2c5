"""The paper's scale, every rule of it, with nothing shrunk but sizes.

Language models of the paper's classes, with as many blocks as the real ones and a few features,
are fetched from a hub on the loopback interface, in the dtype of the catalogue; data files, in the
shapes of the published ones, come from the same server, and so do texts, streamed as Wikipedia is.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from configurations import load
from flaky_server import Server, serving
from hub_wikipedia import publish_wikipedia
from safetensors.torch import load_file
from tiny_folders import write_lm, zsre_line

from malmen.lm.catalogue import lookup
from malmen.results import per_fact

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAPER = load("paper")
LMS = PAPER["run"]["language_models"]
ROWS = {"train": 16, "validation": 8, "evaluation": 8}
COUNTS = [4, 8]

NETWORK = {"rank": 8, "fact_batch": 4}
SMALLER = {
    "threads": 1,
    "machine": "ignore",  # estimates are of the real language models
    "fact_checker": {"claims": 16, "held_out": 8, "epochs": 1},
    "statistics": {"samples": 24, "length": 64},
    "editors": {
        "malmen": NETWORK,
        "mend": NETWORK,
        "ft": {"epochs": 1, "fact_batch": 4},
        "memit": {"v_steps": 2, "contexts": 2, "fact_batch": 4},
    },
    "language_models": {
        name: {"rows": ROWS, "edits": COUNTS, "training": [{"edits": 8, "steps": 2}]}
        for name in LMS
    },
    "ablations": {"edits": [8]},
    "memory": {"edits": [4]},
    "answers": {"edits": 8},
    "search": {"edits": 2, "steps": 1},
}
"""Over config/paper.yaml: sizes alone."""


def fever_line(i: int) -> dict[str, object]:
    labels = ["SUPPORTS", "REFUTES"]
    return {
        "prompt": f"City {i} is in Peru.",
        "equiv_prompt": [f"Peru has City {i}."],
        "alt": labels[i % 2],
        "unrel_prompt": f"Lake {i} is in France.",
        "unrel_ans": labels[i // 2 % 2],
    }


def mend_line(i: int) -> dict[str, object]:
    fields = zsre_line(i)
    return {**fields, "answers": [fields.pop("ans")], "alt": "Chad", "rephrase": "In which land?"}


FILES = {
    "fever_train.json": [fever_line(i) for i in range(40)],
    "fever_eval.json": [fever_line(i) for i in range(100, 112)],
    "zsre_mend_train.json": [mend_line(i) for i in range(40)],
    "zsre_mend_eval.json": [mend_line(i) for i in range(100, 112)],
}


def publish_models(server: Server, folder: Path) -> None:
    """Serve the repositories that the language models come from, at their pinned revisions."""
    for name in {lookup(lm).base or lm for lm in LMS}:
        source = lookup(name).hub
        assert source is not None
        written = write_lm(folder / name, name)
        files = {path.name: path.read_bytes() for path in written.iterdir()}
        server.publish(source.repository, files, large=("model.safetensors",))
        listing = f"/api/models/{source.repository}/revision/"
        server.files[listing + source.revision] = server.files[listing + "main"]


def publish_data(server: Server, table: Path) -> None:
    """Serve the data files, and have the table of a checkout name this server."""
    sources = yaml.safe_load(table.read_text())
    for name, rows in FILES.items():
        content = json.dumps(rows).encode()
        server.files[f"/{name}"] = content
        version = {"sha256": hashlib.sha256(content).hexdigest(), "by": "this test"}
        sources[name] |= {"mirrors": [f"{server.url}/{name}"], "versions": [version]}
    table.write_text(yaml.safe_dump(sources))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the paper's scale has run."""
    folder = tmp_path_factory.mktemp("paper")
    for name in ("workflow", "config", "profiles", "malmen", "baselines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder)
    (folder / "smaller.yaml").write_text(yaml.safe_dump(SMALLER))
    with serving() as server:
        publish_models(server, folder / "published")
        publish_data(server, folder / "malmen/data/downloads/sources.yaml")
        publish_wikipedia(server, [f"City {i} lies by a lake." for i in range(40)])
        command = [str(Path(sys.executable).with_name("snakemake")), "--cores", "2", "--nocolor"]
        command += ["--resources", "gpu=2", "--configfile", "config/paper.yaml", "smaller.yaml"]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        hub = {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "hub")}
        run = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(folder), **hub},
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-6000:]
    return folder


def test_weights_are_fetched_in_the_dtype_of_the_catalogue(finished: Path) -> None:
    for name in {lookup(lm).base or lm for lm in LMS}:
        tensors = load_file(finished / "resources" / "lm" / name / "model.safetensors")
        dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
        assert dtypes == {getattr(torch, lookup(name).dtype)}


def test_every_editor_is_evaluated_on_every_language_model(finished: Path) -> None:
    for lm in LMS:
        editors = ["malmen", "mend", "ft", "ultraedit", *(["memit"] if lookup(lm).memit else [])]
        for editor in editors:
            path = finished / "results/paper/evaluations" / lm / f"{editor}.parquet"
            frame, metadata = per_fact.read(path)
            assert frame.groupby("edits").size().to_dict() == {count: count for count in COUNTS}
            assert frame[["es", "gs", "ls", "pre_es"]].notna().all().all()
            assert len(metadata["editing"]) == len(COUNTS)


def test_statistics_are_of_texts_streamed_from_the_hub(finished: Path) -> None:
    metadata = json.loads((finished / "results/paper/statistics/gptj.json").read_text())
    assert metadata["settings"]["texts"] == SMALLER["statistics"]["samples"]


def test_the_fact_checker_is_trained_on_fevers_claims(finished: Path) -> None:
    folder = finished / "results/paper/lm/bert"
    accuracy: dict[str, Any] = json.loads((folder / "accuracy.json").read_text())
    assert set(accuracy) == {"training", "held_out"}
    log = (finished / "results/paper/logs/fact_checker/bert.log").read_text()
    assert "fact checker on 16 claims" in log


def test_meta_training_begins_with_its_plan(finished: Path) -> None:
    log = (finished / "results/paper/logs/train/gptj_malmen_8.log").read_text()
    assert "memory plan: a step of MALMEN's meta-training, 8 edits: " in log


def test_every_table_and_figure_is_made(finished: Path) -> None:
    folder = finished / "results/paper"
    tables = {path.stem.removeprefix("table_") for path in folder.glob("tables/*.md")}
    assert tables == {"1", "1b", "2", "3", "4", "5"}
    figures = {path.stem.removeprefix("figure_") for path in folder.glob("figures/*.pdf")}
    assert {"04", "05", "06", "07", "08"} <= figures
    assert set(pd.read_csv(folder / "tables/table_1.csv")["lm"]) == set(LMS)
    for name in ("report.html", "summary.md", "claims.md", "answers/gptj.json"):
        assert (folder / name).stat().st_size > 0
