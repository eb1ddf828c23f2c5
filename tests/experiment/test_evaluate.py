"""Which trained editor edits at which count; the command's own tests are those of the command."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from malmen.experiment.cards import MALMEN
from malmen.experiment.evaluate import _trained_files

COUNTS = (4, 16, 64)


@given(
    counts=st.lists(st.integers(1, 100), min_size=1, max_size=3, unique=True),
    order=st.permutations(COUNTS),
)
def test_each_count_is_edited_by_the_nearest_from_above_or_the_largest(
    counts: list[int], order: list[int]
) -> None:
    chosen = _trained_files(MALMEN, counts, [f"a@b/{count}.st@{count}" for count in order])
    assert list(chosen) == counts
    for count, file in chosen.items():
        above = [trained for trained in COUNTS if trained >= count]
        assert file == Path(f"a@b/{min(above) if above else max(COUNTS)}.st")
