import random

import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import random_example, random_examples

from malmen.lm.batches import Batches, Example

examples_lists = st.builds(
    lambda kind, n, seed: random_examples(kind, n, seed=seed),
    st.sampled_from(["llama", "bert", "t5"]),
    st.integers(1, 20),
    st.integers(0, 1000),
)


@given(examples=examples_lists, size=st.integers(1, 25))
def test_every_example_is_in_one_batch_as_it_was(examples: list[Example], size: int) -> None:
    batches = Batches(examples, size=size)
    assert all(0 < len(batch) <= size for batch in batches)
    assert len(batches) == -(-len(examples) // size)
    seen = [example for batch in batches for example in batch.examples]
    assert sorted(map(id, seen)) == sorted(map(id, examples))
    for batch in batches:
        for row, example in enumerate(batch.examples):
            length = len(example.ids)
            assert tuple(batch.input_ids[row, :length].tolist()) == example.ids
            assert batch.attention_mask[row].tolist() == [1] * length + [0] * (
                batch.input_ids.shape[1] - length
            )
            assert not batch.input_ids[row, length:].any()


@given(n=st.integers(1, 20), size=st.integers(1, 25), seed=st.integers(0, 1000))
def test_decoder_inputs_are_padded_beside_their_encoders(n: int, size: int, seed: int) -> None:
    for batch in Batches(random_examples("t5", n, seed=seed), size=size):
        ids, mask = batch.decoder_input_ids, batch.decoder_attention_mask
        assert ids is not None
        assert mask is not None
        assert ids.shape == mask.shape
        assert len(ids) == len(batch)
        for example, row, present in zip(batch.examples, ids, mask, strict=True):
            length = len(example.decoder_ids)
            assert tuple(row[:length].tolist()) == example.decoder_ids
            assert present.tolist() == [1] * length + [0] * (len(row) - length)
            assert not row[length:].any()


@given(kind=st.sampled_from(["llama", "bert"]), seed=st.integers(0, 1000))
def test_without_a_decoder_there_is_no_decoder_input(kind: str, seed: int) -> None:
    (batch,) = Batches(random_examples(kind, 3, seed=seed), size=3)
    assert batch.decoder_input_ids is None
    assert batch.decoder_attention_mask is None


@given(examples=examples_lists, size=st.integers(1, 25))
def test_answers_point_at_their_facts(examples: list[Example], size: int) -> None:
    batches = Batches(examples, size=size)
    found: dict[int, list[tuple[int, int, float]]] = {}
    for batch in batches:
        answers = zip(
            *(t.tolist() for t in (batch.rows, batch.columns, batch.targets, batch.facts)),
            batch.weights.tolist(),
            strict=True,
        )
        for row, column, target, fact, weight in answers:
            assert batch.examples[row] is examples[fact]
            found.setdefault(fact, []).append((column, target, weight))
    for fact, example in enumerate(examples):
        columns, targets, weights = zip(*found[fact], strict=True)
        assert columns == example.positions
        assert targets == example.targets
        assert weights == (1 / len(columns),) * len(columns)


@given(examples=examples_lists, sizes=st.tuples(st.integers(1, 25), st.integers(1, 25)))
def test_the_order_of_facts_does_not_depend_on_the_batch_size(
    examples: list[Example], sizes: tuple[int, int]
) -> None:
    def order(batches: Batches) -> list[int]:
        return torch.cat([batch.facts for batch in batches]).tolist()

    one, other = (order(Batches(examples, size=size)) for size in sizes)
    assert one == other


def test_examples_of_like_length_stand_together() -> None:
    draw = random.Random(0)
    examples = [random_example("llama", draw) for _ in range(40)]
    lengths = [
        [len(example.ids) for example in batch.examples] for batch in Batches(examples, size=5)
    ]
    flat = [length for batch in lengths for length in batch]
    assert flat == sorted(flat)


def test_no_examples_make_no_batches() -> None:
    assert list(Batches([], size=4)) == []


def test_tensors_are_on_the_device_asked_for() -> None:
    (batch,) = Batches(random_examples("t5", 2), size=2, device="meta")
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 10
    assert all(tensor.is_meta for tensor in tensors)
