"""A GPU that is not there: tensors of torch's meta device, which have a device and no content.

What runs on it computes nothing, and still fails where a tensor was left on another device. Where a
program reads a number or copies a tensor back to the host, the ghost makes one up.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["GPU", "GhostGpu"]

GPU = torch.device("meta")

_aten = torch.ops.aten
_COPIES = {_aten._to_copy.default, _aten.copy_.default}
_TAKES_HOST_INDICES = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}


class GhostGpu(TorchDispatchMode):
    """Run what is inside with a ghost of a GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _aten._local_scalar_dense.default and args[0].device == GPU:
            return _number(args[0].dtype)
        if func is _aten.nonzero.default and args[0].device == GPU:  # as if nothing were zero
            return torch.ones(args[0].shape).nonzero().to(GPU)
        if func is _aten._to_copy.default and args[0].device == GPU and _goes_to_host(kwargs):
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func not in _COPIES | _TAKES_HOST_INDICES:
            _check_devices(func, args, kwargs)
        return func(*args, **kwargs)


def _goes_to_host(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == "cpu"


def _number(dtype: torch.dtype) -> bool | float | int:
    """Return what passes every check: finite, true, and no error."""
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 0


def _check_devices(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse what a GPU refuses; scalars may come from anywhere."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.ndim > 0]
    if len({tensor.device for tensor in tensors}) > 1:
        raise RuntimeError(f"{func}: tensors on several devices, {[x.device for x in tensors]}")
