"""Vectors, one a token, that are kept in a file instead of in memory."""

import weakref
from collections.abc import Iterator
from tempfile import TemporaryFile

import torch
from torch import Tensor

__all__ = ["SpilledVectors", "Vectors", "in_memory"]


class SpilledVectors:
    """Vectors (n, size) in a temporary file, which the system removes with the process.

    They are read in pieces, like those of a tensor that is split: memory does not depend on n.

    Args:
        size: of a vector.
        dtype: of the vectors.
        device: that pieces are read to.
    """

    def __init__(self, size: int, *, dtype: torch.dtype, device: torch.device | str) -> None:
        self.size, self.dtype, self.device = size, dtype, device
        self._bytes = size * dtype.itemsize  # of a vector
        self._file = TemporaryFile()  # noqa: SIM115 (closed with this object)
        weakref.finalize(self, self._file.close)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, vectors: Tensor) -> None:
        """Write vectors (k, size) behind those that are there."""
        flat = vectors.to(self.dtype).cpu().contiguous().view(torch.uint8)
        self._file.seek(self._count * self._bytes)
        self._file.write(flat.numpy().data)
        self._count += len(vectors)

    def split(self, count: int) -> Iterator[Tensor]:
        """Read so many vectors at a time; the last piece may be smaller."""
        for start in range(0, self._count, count):
            length = min(count, self._count - start)
            self._file.seek(start * self._bytes)
            read = bytearray(self._file.read(length * self._bytes))
            yield torch.frombuffer(read, dtype=self.dtype).view(length, self.size).to(self.device)


Vectors = Tensor | SpilledVectors
"""Vectors (n, size), wherever they are."""


def in_memory(vectors: Vectors) -> Tensor:
    """Return vectors as a tensor."""
    return vectors if isinstance(vectors, Tensor) else next(vectors.split(max(1, len(vectors))))
