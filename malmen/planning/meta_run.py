"""Code run on shapes alone: torch's meta device, which has no content, and a count of its bytes.

A model of any size runs here in no memory. What reads a number, such as a check for finite values,
reads one that passes; what is copied to the host is zero there.
"""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["META", "MetaRun"]

META = torch.device("meta")

_aten = torch.ops.aten


class MetaRun(TorchDispatchMode):
    """Run what stands in the ``with`` block on shapes, counting the bytes on the meta device.

    Attributes:
        held: Bytes of all tensors made in the block that still live.
        peak: The largest that `held` has been since the block began or `restart` was called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._living: dict[int, weakref.finalize] = {}

    def restart(self) -> int:
        """Forget the peak so far, and return what is held now."""
        self.peak = self.held
        return self.held

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.device == META:
            if func is _aten._local_scalar_dense.default:  # finite, true, and no error
                number = 1.0 if first.dtype.is_floating_point else 0
                return True if first.dtype == torch.bool else number
            if func is _aten.nonzero.default:  # as if nothing were zero
                return torch.ones(first.shape).nonzero().to(META)
            is_to_host = str(kwargs.get("device")).startswith("cpu")
            if func is _aten._to_copy.default and is_to_host:
                return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device == META:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._living or size == 0:
            return
        self._living[key] = weakref.finalize(storage, self._release, key, size)
        self.held += size
        self.peak = max(self.peak, self.held)

    def _release(self, key: int, size: int) -> None:
        del self._living[key]
        self.held -= size
