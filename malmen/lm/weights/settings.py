"""Hyper-parameters of the language models that are trained here, with their defaults."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from malmen.support.checked import Checked, Count, Rate

__all__ = ["FactCheckerSettings", "PretrainingSettings"]


@dataclass(frozen=True, kw_only=True)
class FactCheckerSettings(Checked):
    """Hyper-parameters of fact-checker fine-tuning."""

    learning_rate: Rate = 1e-4
    """Peak learning rate of AdamW; it falls linearly to zero."""
    epochs: Count = 2
    """Passes over the claims."""
    batch_size: Count = 64
    """Claims a step."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of steps over which the learning rate rises."""


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings(Checked):
    """Hyper-parameters of pre-training on facts."""

    learning_rate: Rate = 1e-3
    """Peak learning rate of AdamW; it falls to zero along a cosine."""
    epochs: Count = 4
    """Passes over all wordings of the facts."""
    batch_size: Count = 32
    """Prompts a step."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of steps over which the learning rate rises."""
    clip: Rate = 1.0
    """Largest norm of the gradient; longer ones are scaled down to it."""
