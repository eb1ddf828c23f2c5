"""GPT-J in double precision: transformers computes its attention in single, whatever the weights.

Padding changes the order of sums, so comparisons in double precision need all of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, SimpleNamespace
from unittest import mock

import torch
from transformers.models.gptj.modeling_gptj import GPTJAttention


@contextmanager
def exact_gptj() -> Iterator[None]:
    """Let GPT-J's attention compute in double precision."""
    plain = GPTJAttention._attn
    double = SimpleNamespace(**{**vars(torch), "float32": torch.float64})
    exact = FunctionType(plain.__code__, {**plain.__globals__, "torch": double})
    exact.__defaults__ = plain.__defaults__
    with mock.patch.object(GPTJAttention, "_attn", exact):
        yield
