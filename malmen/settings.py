"""Hyper-parameters, with the defaults of the paper's code; every one is an option of a command."""

from dataclasses import dataclass

__all__ = ["FactCheckerSettings", "FineTuningSettings", "HyperSettings", "TrainingSettings"]


@dataclass(frozen=True, kw_only=True)
class HyperSettings:
    """Hyper-parameters of the hyper-network editors."""

    rank: int = 1920
    """Rank of the hyper-network's blocks."""
    n_blocks: int = 2
    """Number of the hyper-network's blocks."""
    learning_rate: float = 1e-6
    """Initial learning rate η of every layer."""
    token_batch: int = 1024
    """Tokens the hyper-network takes at a time."""
    fact_batch: int = 32
    """Facts the language model takes at a time."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Hyper-parameters of meta-training."""

    meta_learning_rate: float = 1e-5
    """Learning rate of Adam on the editor's parameters."""
    loc_coef: float = 1.0
    """Weight of the locality loss in the meta loss."""
    clip: float = 1.0
    """Largest norm of the meta-gradient; longer ones are scaled down to it."""
    evaluate_every: int = 8
    """Steps between evaluations on validation facts (the last step is always evaluated)."""
    checkpoint_every: int = 1
    """Steps between checkpoints."""


@dataclass(frozen=True, kw_only=True)
class FineTuningSettings:
    """Hyper-parameters of fine-tuning."""

    learning_rate: float = 5e-4
    """Learning rate of AdamW."""
    weight_decay: float = 5e-4
    """Decoupled weight decay of AdamW."""
    epochs: int = 5
    """Passes over the edit tuples."""
    fact_batch: int = 32
    """Facts a step."""


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
