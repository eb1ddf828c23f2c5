"""Hyper-parameters; every one is an option of a command.

What the released code has defaults to its value (`experiment/published_settings.yaml`); the rest,
such as batches that change nothing but time, is this suite's. A field is all there is to say of a
setting: its option, its key in a configuration and in a search, what is refused and what is printed
follow from it.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from malmen.support.checked import Checked, Count, Rate, Weight

__all__ = [
    "FineTuningSettings",
    "HyperSettings",
    "MemitSettings",
    "OracleSettings",
    "TokenSettings",
    "TrainingSettings",
]


@dataclass(frozen=True, kw_only=True)
class TokenSettings(Checked):
    """Hyper-parameters of the editors that work token by token."""

    learning_rate: Rate = 1e-6
    """Learning rate η of every layer; where it is learned, its start."""
    token_batch: Count = 1024
    """Tokens the editor takes at a time."""
    fact_batch: Count = 32
    """Facts the language model takes at a time."""
    cached: Literal["ans", "all"] = "ans"
    """Tokens whose keys and value gradients are cached: answer-predicting ones, or all."""
    memory_mb: Weight = 4096
    """Keys and value gradients that take more memory than this go to temporary files (TMPDIR)."""


@dataclass(frozen=True, kw_only=True)
class HyperSettings(TokenSettings):
    """Hyper-parameters of the hyper-network editors."""

    rank: Count = 1920
    """Rank of the hyper-network's blocks."""
    n_blocks: Count = 2
    """Number of the hyper-network's blocks."""
    graph_tokens: Annotated[int, Field(ge=0)] = 8192
    """Tokens, of all layers together, whose graph of the hyper-network is kept within a step."""
    normalise: bool = True
    """Whether keys and value gradients are normalised by running statistics."""
    learn_lambda: bool = True
    """Whether MALMEN's λ is learned; otherwise it stays 1."""
    loss_weights: Literal["facts", "tokens"] = "facts"
    """What weighs equally in every loss: facts; or, as released, answer tokens of a batch of facts,
    and such batches, whose losses are then summed instead of averaged over facts."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Checked):
    """Hyper-parameters of meta-training."""

    meta_learning_rate: Rate = 1e-5
    """Learning rate of Adam on the editor's parameters."""
    loc_coef: Weight = 1.0
    """Weight of the locality loss in the meta loss."""
    clip: Rate = 1.0
    """Largest norm of the meta-gradient; longer ones are scaled down to it."""
    evaluate_every: Count = 8
    """Steps between evaluations on validation facts (the last step is always evaluated)."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Evaluations without an improvement after which training ends, with its best editor as the
    result; 0 takes all steps, and the last editor."""
    margin: Weight = 0.002
    """Smallest improvement of the validation score, a fraction, that counts as one."""
    checkpoint_every: Count = 1
    """Steps between checkpoints."""


@dataclass(frozen=True, kw_only=True)
class FineTuningSettings(Checked):
    """Hyper-parameters of fine-tuning."""

    learning_rate: Rate = 5e-4
    """Learning rate of AdamW."""
    weight_decay: Weight = 5e-4
    """Decoupled weight decay of AdamW."""
    epochs: Count = 5
    """Passes over the edit tuples."""
    fact_batch: Count = 32
    """Facts a step."""


@dataclass(frozen=True, kw_only=True)
class OracleSettings(Checked):
    """Hyper-parameters of the oracle."""

    learning_rate: Rate = 1e-3
    """Learning rate of Adam."""
    epochs: Count = 100
    """Passes over the facts, at most."""
    patience: Count = 3
    """Passes without an improvement of the loss by one percent after which the descent ends."""
    loc_coef: Weight = 1.0
    """Weight of the locality loss, beside those of the edit and the equivalent tuples."""
    fact_batch: Count = 32
    """Facts a step."""


@dataclass(frozen=True, kw_only=True)
class MemitSettings(Checked):
    """Hyper-parameters of MEMIT; the defaults are those published and released for GPT-J."""

    v_steps: Count = 25
    """Losses computed to find the value of a fact; a step of Adam follows each but the last."""
    v_learning_rate: Rate = 0.5
    """Learning rate of these steps."""
    clamp_factor: Rate = 0.75
    """Largest norm of what a fact adds to the hidden state, relative to the norm of that state."""
    kl_factor: Weight = 0.0625
    """Weight of the divergence on "{subject} is a"."""
    kl_at: Literal["subject", "essence"] = "subject"
    """Where it is taken: at the subject's last token (released), or at the last one (paper)."""
    kl_direction: Literal["after_before", "before_after"] = "after_before"
    """KL(after ‖ before) of the change (released and paper), or KL(before ‖ after)."""
    v_weight_decay: Weight = 0.5
    """Weight of the norm of what is added, relative to the squared norm of the hidden state."""
    covariance_weight: Rate = 15000.0
    """λ, the weight of the keys' covariance in the normal equation."""
    contexts: Count = 6
    """Contexts that a fact is written behind, the empty one included."""
    context_length: Count = 10
    """Tokens of a sampled context, its first word among them."""
    context_top_k: Annotated[int, Field(ge=0)] = 5
    """Likeliest tokens that each token of a context is drawn from; 0 takes the whole vocabulary."""
    precision: Literal["float32", "stored"] = "float32"
    """Of the language model: single (released), or that in which its weights are stored."""
    fact_batch: Count = 32
    """Facts whose values are optimised at a time."""
