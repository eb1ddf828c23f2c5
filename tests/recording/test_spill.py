import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from malmen.recording.spill import SpilledVectors, in_memory


@given(
    pieces=st.lists(st.integers(0, 6), max_size=5),
    width=st.integers(1, 4),
    size=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_rows_come_back_in_pieces_of_any_size(
    pieces: list[int], width: int, size: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(sum(pieces), width, generator=generator).to(dtype)
    spilled = SpilledVectors(width, dtype=dtype, device="cpu")
    for piece in rows.split(pieces):
        spilled.append(piece)
    assert len(spilled) == len(rows)
    for _ in range(2):  # they may be read again
        found = list(spilled.split(size))
        wanted = list(rows.split(size)) if len(rows) else []
        assert len(found) == len(wanted)
        assert all(
            torch.equal(f, w) and f.dtype == dtype for f, w in zip(found, wanted, strict=True)
        )
    if len(rows):
        assert torch.equal(in_memory(spilled), rows)
    assert in_memory(rows) is rows


def test_what_is_read_belongs_to_the_reader() -> None:
    spilled = SpilledVectors(2, dtype=torch.float32, device="cpu")
    spilled.append(torch.ones(3, 2))
    in_memory(spilled).fill_(7)
    assert torch.equal(in_memory(spilled), torch.ones(3, 2))


@pytest.mark.parametrize("first", [1, 3])
def test_rows_may_follow_after_a_reading(first: int) -> None:
    spilled = SpilledVectors(2, dtype=torch.float64, device="cpu")
    rows = torch.arange(10.0, dtype=torch.float64).view(5, 2)
    spilled.append(rows[:first])
    next(spilled.split(1))
    spilled.append(rows[first:])
    assert torch.equal(in_memory(spilled), rows)
