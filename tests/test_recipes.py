"""CONTRIBUTING's recipes, run as they are printed, in a clone with the files of the smoke scale.

A block that begins with the name of a file is written there, a diff is applied, commands run in one
shell, and each line of a text block has to be among what they print; "..." stands for anything.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkouts import Checkout
from synthetic import write_evaluations
from tiny_folders import write_lines, write_lm, zsre_line
from tiny_models import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## How to add\n")[2]
RECIPES = dict(re.findall(r"^### (.+)\n((?:(?!### ).*\n)*)", TEXT, re.MULTILINE))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    checkout = Checkout.create(tmp_path)
    command = f'#!/bin/sh\nexec {sys.executable} -m malmen "$@"\n'
    (checkout.folder / "bin" / "malmen").write_text(command, encoding="utf-8")
    write_lm(tmp_path / "resources/lm/smollm2", "smollm2")
    with torch.random.fork_rng():
        tiny_model("qwen2").float().save_pretrained(tmp_path / "models/mine")
    tiny_tokenizer("qwen2").save_pretrained(tmp_path / "models/mine")
    results = tmp_path / "results/smoke"
    write_lines(results / "rows/smollm2/evaluation.jsonl", [zsre_line(i) for i in range(16)])
    write_evaluations(results / "evaluations", editors=["MALMEN", "UltraEdit"], lms=["smollm2"])
    return tmp_path


def follow(recipe: str, clone: Path) -> tuple[str, list[str]]:
    """Do what a recipe says; return what its commands print, and what it says they do."""
    printed, expected = "", []
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```", recipe, re.MULTILINE | re.DOTALL):
        if kind == "diff":
            for name, change in re.findall(r"^\+\+\+ (.+)\n((?:[-+](?!\+\+).*\n)*)", block, re.M):
                apply(change, clone / name)
        elif kind == "sh":
            printed += shell(block, clone)
        elif kind == "text":
            expected += block.splitlines()
        else:
            name, _, text = block.removeprefix("# ").partition("\n")
            (clone / name).write_text(text, encoding="utf-8")
    return printed, expected


def apply(change: str, path: Path) -> None:
    """Put the lines that a diff adds in the place of those that it removes, which stand once."""
    old, new = (
        "".join(f"{line[1:]}\n" for line in change.splitlines() if line[0] == sign) for sign in "-+"
    )
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path}: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def shell(commands: str, clone: Path) -> str:
    path = os.pathsep.join([str(clone / "bin"), str(Path(sys.executable).parent), os.defpath])
    done = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=clone,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_there_is_a_recipe_for_each() -> None:
    assert list(RECIPES) == ["An editor", "A language model", "A figure", "A claim"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_does_what_it_says(recipe: str, clone: Path) -> None:
    printed, expected = follow(recipe, clone)
    assert expected
    for line in expected:
        pattern = ".*".join(map(re.escape, line.split("...")))
        assert re.search(f"^{pattern}$", printed, re.MULTILINE), f"{line}\n\n{printed[-4000:]}"
