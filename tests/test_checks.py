"""The hosted checks and the hooks before a commit run what `make` runs, and nothing else."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_hosted_checks_are_those_of_the_local_run() -> None:
    hosted = set(read(".github/workflows/ci.yml")["jobs"]["check"]["strategy"]["matrix"]["target"])
    local = set(re.findall(r"\bmake (?:-C \S+ -o \S+ )?([a-z-]+)", (ROOT / ".ci/run").read_text()))
    assert hosted == local - {"env"}
    assert hosted <= TARGETS


def test_the_hosted_checks_have_the_variables_of_the_local_run() -> None:
    hosted = read(".github/workflows/ci.yml")["env"]
    exports = re.findall(r"^export (.+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    local = dict(pair.split("=") for line in exports for pair in line.split())
    assert local.items() <= hosted.items()


def test_hooks_are_the_tools_of_make_lint() -> None:
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2]
    for hook in read(".pre-commit-config.yaml")["repos"][0]["hooks"]:
        tool, *words = hook["entry"].removeprefix(".venv/bin/").split()
        command = " ".join([tool, *(word for word in words if not word.startswith("-"))])
        assert re.search(rf"\$\(RUN\) {command}\b", lint), hook["id"]


def test_the_catalogue_finds_what_it_looks_for() -> None:
    """Its rules for a generic workflow, and its file of how a workflow is used."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    assert "snakemake" in readme
    assert "workflow" in readme
    assert (ROOT / "Snakefile").is_file()
    assert list((ROOT / "workflow" / "rules").glob("*.smk"))
    usage = read(".snakemake-workflow-catalog.yml")["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    overlays = {path.name for path in (ROOT / "config").glob("*.yaml")}
    described = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
    assert overlays == set(re.findall(r"`(\w+\.yaml)`", described))
