"""Which trained editor edits at which count; the command's own tests are those of the command."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import EDITORS, tiny_lm

from malmen.experiment.cards import MALMEN
from malmen.experiment.editors import save_editor
from malmen.experiment.evaluate import _trained_editors
from malmen.lm.language_model import LanguageModel
from malmen.settings import HyperSettings

COUNTS = (4, 16, 64)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_lm("gpt2", dtype=torch.float32)


@pytest.fixture(scope="module")
def files(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Trained editors that their ranks tell apart, in no order."""
    folder: Path = tmp_path_factory.mktemp("trained")
    named = []
    for count in (16, 4, 64):
        editor = EDITORS[MALMEN.name](lm.shapes, HyperSettings(rank=count, n_blocks=1))
        save_editor(folder / f"{count}.st", editor, lm=lm.entry.name)
        named.append(f"{folder / str(count)}.st@{count}")
    return named


@given(counts=st.lists(st.integers(1, 100), min_size=1, max_size=3, unique=True))
def test_each_count_is_edited_by_the_nearest_from_above_or_the_largest(
    counts: list[int], files: list[str], lm: LanguageModel
) -> None:
    chosen = _trained_editors(MALMEN, lm, counts, files)
    assert list(chosen) == counts
    for count, editor in chosen.items():
        above = [trained for trained in COUNTS if trained >= count]
        assert editor.settings.rank == (min(above) if above else max(COUNTS))
