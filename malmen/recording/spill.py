"""Rows kept in a file instead of in memory."""

import weakref
from collections.abc import Iterator
from tempfile import TemporaryFile

import torch
from torch import Tensor

__all__ = ["Rows", "SpilledRows", "in_memory"]


class SpilledRows:
    """Rows (n, size) in a temporary file, which the system removes with the process.

    They are read in pieces, like those of a tensor that is split: memory does not depend on n.

    Args:
        size: of a row.
        dtype: of the rows.
        device: that pieces are read to.
    """

    def __init__(self, size: int, *, dtype: torch.dtype, device: torch.device | str) -> None:
        self.size, self.dtype, self.device = size, dtype, device
        self._file = TemporaryFile()  # noqa: SIM115 (closed with this object)
        weakref.finalize(self, self._file.close)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Tensor) -> None:
        """Write rows (k, size) behind those that are there."""
        flat = rows.to(self.dtype).cpu().contiguous().view(torch.uint8)
        self._file.seek(self._count * self._row_bytes)
        self._file.write(flat.numpy().data)
        self._count += len(rows)

    def split(self, rows: int) -> Iterator[Tensor]:
        """Read the rows in pieces of ``rows``; the last one may be smaller."""
        for start in range(0, self._count, rows):
            count = min(rows, self._count - start)
            self._file.seek(start * self._row_bytes)
            read = bytearray(self._file.read(count * self._row_bytes))
            yield torch.frombuffer(read, dtype=self.dtype).view(count, self.size).to(self.device)

    @property
    def _row_bytes(self) -> int:
        return self.size * self.dtype.itemsize


Rows = Tensor | SpilledRows
"""Rows, wherever they are."""


def in_memory(rows: Rows) -> Tensor:
    """Return rows as a tensor."""
    return rows if isinstance(rows, Tensor) else next(rows.split(max(1, len(rows))))
