"""The wheel, away from the repository: what `pip install malmen` gives.

The environment is empty but for the wheel. So as not to install gigabytes, a .pth file shows it the
packages that the tests run with; this repository, which may be installed there for editing, is not
among them.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from tiny_folders import write_lines, write_lm, zsre_line
from without_workflow import hiding

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("malmen", "baselines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--wheel-dir", out]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode and re.search("No matching distribution|connection", done.stderr):
        pytest.skip("pip finds no package index to build with")
    assert done.returncode == 0, done.stderr
    (made,) = out.glob("malmen-*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # A folder in a .pth file is put in the path, but .pth files in it are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install"]
    command += ["--no-deps", "--no-index", "--force-reinstall", wheel]
    subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return folder / "bin" / "python"


def run(*command: object, folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_runs_is_the_wheel(python: Path, tmp_path: Path) -> None:
    code = "import malmen, baselines; print(malmen.__file__, baselines.__file__)"
    for path in run(python, "-c", code, folder=tmp_path).split():
        assert Path(path).is_relative_to(python.parents[1]), path


def test_every_data_file_is_there(python: Path, tmp_path: Path) -> None:
    code = "import malmen; print(malmen.__file__)"
    site = Path(run(python, "-c", code, folder=tmp_path).strip()).parents[1]
    for package in ("malmen", "baselines"):
        for path in (ROOT / package).rglob("*.*"):
            if path.is_file() and path.suffix != ".pyc":
                assert (site / path.relative_to(ROOT)).is_file(), path


def test_the_commands_run(python: Path, tmp_path: Path) -> None:
    malmen = python.with_name("malmen")
    assert "import-rows" in run(malmen, "--help", folder=tmp_path)
    assert "licence: " in run(malmen, "download", folder=tmp_path)
    assert "import-rows" in run(python, "-m", "malmen", "--help", folder=tmp_path)


def test_readmes_edit_by_library_needs_no_workflow(python: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    write_lm(tmp_path / "resources/lm/smollm2", "smollm2")
    write_lines(tmp_path / "rows/evaluation.jsonl", [zsre_line(i) for i in range(8)])
    printed = run(python, "-c", hiding(example), folder=tmp_path)
    assert re.fullmatch(r"edits: [01]\.\d\d, paraphrases: [01]\.\d\d\n", printed)
