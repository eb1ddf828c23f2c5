"""A GPU that is not there: it knows devices and shapes, and fails where a GPU would.

`malmen.planning.meta_run` lets code run on shapes alone; here a tensor left on another device is an
error.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from malmen.planning.meta_run import META, MetaRun

__all__ = ["GPU", "GhostGpu"]

GPU = META

_aten = torch.ops.aten
_CROSSES = {  # copies, and what takes indices from anywhere
    _aten._to_copy.default,
    _aten.copy_.default,
    _aten.index.Tensor,
    _aten.index_put_.default,
    _aten.index_put.default,
}


class GhostGpu(MetaRun):
    """Run what is inside with a ghost of a GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in _CROSSES:
            _check_devices(func, args, kwargs or {})
        return super().__torch_dispatch__(func, types, args, kwargs)


def _check_devices(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse what a GPU refuses; scalars may come from anywhere."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.ndim > 0]
    if len({tensor.device for tensor in tensors}) > 1:
        raise RuntimeError(f"{func}: tensors on several devices, {[x.device for x in tensors]}")
