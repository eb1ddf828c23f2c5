import pytest
import torch
from tiny_models import ARCHITECTURES, HIDDEN, random_examples, tiny_lm, tiny_tokenizer

from malmen.lm.kinds import Decoder, Encoder, EncoderDecoder
from malmen.lm.objectives import BinaryVerdict, TokenPrediction

kinds = pytest.mark.parametrize("kind", ARCHITECTURES)


@kinds
def test_task_and_architecture_decide_the_kind(kind: str) -> None:
    lm = tiny_lm(kind)
    wanted = {"bert": Encoder, "t5": EncoderDecoder}.get(kind, Decoder)
    assert type(lm.kind) is wanted
    assert isinstance(lm.objective, BinaryVerdict if kind == "bert" else TokenPrediction)


@kinds
def test_the_class_of_transformers_loads_the_head(kind: str) -> None:
    lm = tiny_lm(kind)
    assert type(lm.kind.auto_class.from_config(lm.model.config)) is type(lm.model)


@kinds
def test_the_head_makes_logits_of_what_it_says_enters_it(kind: str) -> None:
    lm = tiny_lm(kind)
    (batch,) = lm.batches(random_examples(kind, 3), size=3)
    seen: list[torch.Tensor] = []
    head = lm.kind.head(lm.model)
    with head.register_forward_pre_hook(lambda module, args: seen.append(args[0])):
        logits = lm.logits(batch)
    inputs = seen[0] if seen else logits  # a fact checker's logits are kept as they are
    assert inputs.shape[1] == lm.kind.head_size(lm.model)
    assert lm.kind.head_size(lm.model) == {"bert": 1, "opt": HIDDEN // 2}.get(kind, HIDDEN)
    assert torch.equal(head(inputs), logits)


@kinds
def test_only_an_encoder_caches_its_whole_input_where_answers_are_asked_for(kind: str) -> None:
    lm = tiny_lm(kind)
    whole = {name for name in lm.layers if lm.kind.caches_input(name, "ans")}
    assert whole == {name for name in lm.layers if kind == "t5" and name.startswith("encoder.")}
    for name in lm.layers:
        assert lm.kind.caches_input(name, "all") != name.startswith("decoder.")


@kinds
def test_an_answer_of_blanks_has_no_targets(kind: str) -> None:
    lm = tiny_lm(kind)
    if kind == "bert":
        assert lm.kind.targets(tiny_tokenizer(kind), "SUPPORTS") == [1]
    else:
        assert lm.kind.targets(tiny_tokenizer(kind), " \n") == []
