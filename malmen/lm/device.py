"""Where a language model and its editors compute: a GPU when there is one."""

import torch

from malmen.support.errors import InputError

__all__ = ["choose_device"]


def choose_device(name: str | None) -> torch.device:
    """Return the device of this name; unless one is given, a GPU, or else the processor.

    Raises:
        InputError: There is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}; choose from cpu, cuda, cuda:N") from error
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise InputError(f"device {name}: {gpus or 'no'} GPUs can be used here; try --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name}: only cpu and cuda were ever tried; choose one of them")
    return device
