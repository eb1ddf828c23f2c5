"""The kinds of language model: decoder, encoder-decoder, and encoder that judges claims.

A kind says how a prompt and its answer are read, what enters the head where an answer is predicted,
and at which tokens keys are cached.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from malmen.data.rows import Task
from malmen.lm.batches import Batch, Example
from malmen.lm.objectives import BinaryVerdict, Objective, TokenPrediction

__all__ = ["TARGETS", "Cached", "Decoder", "Encoder", "EncoderDecoder", "Kind", "kind_of"]

Cached = Literal["ans", "all"]
"""Cached tokens: where an answer token is predicted, or every token."""

TARGETS = {"REFUTES": 0, "SUPPORTS": 1}
"""What a fact checker predicts of a claim, by its label."""


def kind_of(task: Task, config: PreTrainedConfig) -> "Kind":
    """Return the kind of a language model from its task and its architecture."""
    if task == "verdict":
        return Encoder(config)
    return EncoderDecoder(config) if config.is_encoder_decoder else Decoder(config)


class Kind(ABC):
    """What is common: prompts are completed, token by token.

    Args:
        config: of the language model.

    Attributes:
        auto_class: the class of transformers that loads a model with the head that is needed.
        objective: what an answer's logits are trained towards and scored by.
    """

    auto_class: Any
    objective: Objective = TokenPrediction()

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config

    @abstractmethod
    def example(self, prompt: Sequence[int], targets: Sequence[int]) -> Example:
        """Return the tuple of a prompt's token ids and the targets at its answers."""

    def targets(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
        """Return what is to be predicted of an answer, nothing of an empty one."""
        if not answer.strip():
            return []
        ids: list[int] = tokenizer(" " + answer.strip(), add_special_tokens=False)["input_ids"]
        return ids

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return what the model's forward takes."""
        mask = batch.attention_mask
        return {"input_ids": batch.input_ids, "attention_mask": mask, "use_cache": False}

    def head(self, model: PreTrainedModel) -> nn.Module:
        """Return what makes logits of the states at answers."""
        return model.get_output_embeddings()

    def head_size(self, model: PreTrainedModel) -> int:
        """Return the features that enter the head: some models project hidden states for it."""
        return int(model.get_output_embeddings().weight.shape[1])

    def caches_input(self, layer: str, cached: Cached) -> bool:
        """Tell whether every token of the input is cached at a layer, or one an answer."""
        return cached == "all"


class Decoder(Kind):
    """A decoder reads the prompt and its answer but the last token, and predicts the next one."""

    auto_class = AutoModelForCausalLM

    def example(self, prompt: Sequence[int], targets: Sequence[int]) -> Example:
        """Return the tuple; an answer begins where the prompt ends."""
        first = len(prompt) - 1
        positions = tuple(range(first, first + len(targets)))
        return Example((*prompt, *targets[:-1]), positions, tuple(targets))


class EncoderDecoder(Kind):
    """An encoder reads the prompt, and a decoder begins the answer.

    No position of the encoder predicts an answer, so all its tokens are cached. Those of the
    decoder all do.
    """

    auto_class = AutoModelForSeq2SeqLM

    def example(self, prompt: Sequence[int], targets: Sequence[int]) -> Example:
        """Return the tuple; the decoder reads the answer one token late."""
        read = (self.config.decoder_start_token_id, *targets[:-1])
        return Example(tuple(prompt), tuple(range(len(targets))), tuple(targets), read)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return what the forward of encoder and decoder takes."""
        ids, mask = batch.decoder_input_ids, batch.decoder_attention_mask
        return super().inputs(batch) | {"decoder_input_ids": ids, "decoder_attention_mask": mask}

    def caches_input(self, layer: str, cached: Cached) -> bool:
        """Tell whether a layer sees the encoder's tokens: all are cached on either side."""
        return "decoder" not in layer.split(".")


class Encoder(Kind):
    """A fact checker judges a claim at its first token; of it the logit itself is stored."""

    auto_class = AutoModelForSequenceClassification
    objective = BinaryVerdict()

    def example(self, prompt: Sequence[int], targets: Sequence[int]) -> Example:
        """Return the tuple of a claim and its verdict."""
        return Example(tuple(prompt), (0,), tuple(targets))

    def targets(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
        """Return the verdict that a label stands for."""
        return [TARGETS[answer]]

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return what the forward of a classifier takes."""
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}

    def head(self, model: PreTrainedModel) -> nn.Module:
        """Return what leaves a logit as it is."""
        return nn.Identity()

    def head_size(self, model: PreTrainedModel) -> int:
        """Return 1: a claim has one logit."""
        return 1
