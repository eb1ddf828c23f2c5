"""Hyper-parameters of the language models that are trained here, with their defaults."""

from dataclasses import dataclass

__all__ = ["FactCheckerSettings", "PretrainingSettings"]


@dataclass(frozen=True, kw_only=True)
class FactCheckerSettings:
    """Hyper-parameters of fact-checker fine-tuning."""

    learning_rate: float = 1e-4
    """Peak learning rate of AdamW; it falls linearly to zero."""
    epochs: int = 2
    """Passes over the claims."""
    batch_size: int = 64
    """Claims a step."""
    warmup: float = 0.05
    """Share of steps over which the learning rate rises."""


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings:
    """Hyper-parameters of pre-training on facts."""

    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; it falls to zero along a cosine."""
    epochs: int = 4
    """Passes over all wordings of the facts."""
    batch_size: int = 32
    """Prompts a step."""
    warmup: float = 0.05
    """Share of steps over which the learning rate rises."""
    clip: float = 1.0
    """Largest norm of the gradient; longer ones are scaled down to it."""
