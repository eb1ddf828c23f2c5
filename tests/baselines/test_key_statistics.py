import json
import sys
from collections.abc import Iterator
from functools import cache, partial
from itertools import count
from pathlib import Path

import pytest
import torch
import transformers
from exact_gptj import exact_gptj
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_folders import write_lm
from tiny_models import bits, plain_logits, tiny_lm
from torch import Tensor

import baselines.key_statistics
from baselines.key_statistics import KeyStatistics, key_statistics
from malmen.__main__ import main
from malmen.data.geonames.facts import Fact, write_facts
from malmen.lm.batches import Example
from malmen.lm.catalogue import lookup
from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError
from malmen.support.files import read_safetensors, write_safetensors

KINDS = ("gpt2", "gptj", "llama", "gemma", "opt")
TEXTS = [f"{word} is text {i}." for i, word in enumerate(("A", "Some longer", "The", "B") * 10)]

kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True, scope="module")
def _double_precision() -> Iterator[None]:
    with exact_gptj():
        yield


lm_of = cache(partial(tiny_lm, edited_blocks=(0, 1)))


def statistics_of(lm: LanguageModel, texts: list[str] = TEXTS) -> KeyStatistics:
    return key_statistics(lm, texts, total=len(texts), length=12, progress=False)


def plain_covariances(lm: LanguageModel, texts: list[str], *, length: int) -> dict[str, Tensor]:
    """Return the mean of k kᵀ, one text and one token at a time."""
    keys: dict[str, list[Tensor]] = {layer: [] for layer in lm.layers}
    handles = [
        lm.model.get_submodule(layer).register_forward_hook(
            lambda module, args, output, layer=layer: keys[layer].extend(args[0].flatten(0, -2))
        )
        for layer in lm.layers
    ]
    for text in texts:
        plain_logits(lm, Example(tuple(lm.tokenizer(text)["input_ids"][:length]), (0,), (0,)))
    for handle in handles:
        handle.remove()
    return {k: torch.stack([u.outer(u) for u in us]).mean(dim=0) for k, us in keys.items()}


@kinds
def test_it_is_the_mean_outer_product_of_the_keys_of_all_tokens(kind: str) -> None:
    lm = lm_of(kind)
    wanted = plain_covariances(lm, TEXTS, length=12)
    found = statistics_of(lm)
    assert list(found.covariances) == list(wanted)
    for layer, covariance in wanted.items():
        torch.testing.assert_close(found.covariances[layer], covariance, rtol=1e-10, atol=1e-12)


@given(kind=st.sampled_from(KINDS), sizes=st.tuples(st.integers(1, 50), st.integers(1, 4)))
@settings(max_examples=10)
def test_batches_change_nothing(kind: str, sizes: tuple[int, int]) -> None:
    lm, (text_batch, together) = lm_of(kind), sizes
    texts = TEXTS[:12]
    wanted = statistics_of(lm, texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines.key_statistics, "SORTED", together)
        found = key_statistics(
            lm, texts, total=12, length=12, text_batch=text_batch, progress=False
        )
    assert found.source == wanted.source
    for layer, covariance in wanted.covariances.items():
        torch.testing.assert_close(found.covariances[layer], covariance, rtol=1e-10, atol=1e-12)


def test_no_more_texts_are_taken_than_asked_for() -> None:
    lm, taken = lm_of("gpt2"), []

    def endless() -> Iterator[str]:
        for i in count():
            taken.append(i)
            yield f"Text {i}"

    found = key_statistics(lm, endless(), total=7, length=12, progress=False)
    assert len(taken) == found.source["texts"] == 7
    fewer = key_statistics(lm, ["One", "", "two"], total=100, length=12, progress=False)
    tokens = sum(len(lm.tokenizer(text)["input_ids"]) for text in ("One", "two"))
    assert (fewer.source["texts"], fewer.source["tokens"]) == (3, tokens)


@pytest.mark.parametrize("texts", [[], [""]])
def test_no_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(InputError, match="no texts"):
        key_statistics(lm_of("gpt2"), texts, total=10, length=12, progress=False)


@kinds
def test_the_language_model_is_left_as_it_was(kind: str) -> None:
    lm = lm_of(kind)
    before = bits(lm.model)
    hooks = [len(module._forward_hooks) for module in lm.model.modules()]
    statistics_of(lm)
    assert bits(lm.model) == before
    assert [len(module._forward_hooks) for module in lm.model.modules()] == hooks


@kinds
def test_the_factor_is_that_of_the_covariance(kind: str) -> None:
    statistics = statistics_of(lm_of(kind))
    for layer, covariance in statistics.covariances.items():
        factor = statistics.factor(layer)
        assert torch.equal(factor, factor.tril())
        torch.testing.assert_close(factor @ factor.T, covariance, rtol=1e-12, atol=1e-12)


def test_too_few_tokens_are_named() -> None:
    statistics = statistics_of(lm_of("gpt2"), ["A b"])
    layer = next(iter(statistics.covariances))
    with pytest.raises(InputError, match=rf"24 key features of {layer} is singular: \d tokens"):
        statistics.factor(layer)


# --- files ---


def test_what_is_written_is_read(tmp_path: Path) -> None:
    lm, path = lm_of("gptj"), tmp_path / "statistics.safetensors"
    wanted = statistics_of(lm)
    wanted.save(path)
    found = KeyStatistics.load(path, lm)
    assert found.source == wanted.source
    assert list(found.covariances) == list(wanted.covariances)
    for layer, covariance in wanted.covariances.items():
        assert torch.equal(found.covariances[layer], covariance)


def test_other_texts_have_another_digest() -> None:
    lm = lm_of("gpt2")
    assert statistics_of(lm).source == statistics_of(lm).source
    assert statistics_of(lm).source["corpus"] != statistics_of(lm, TEXTS[::-1]).source["corpus"]
    split, joined = (statistics_of(lm, texts).source for texts in (["a", "b"], ["ab"]))
    assert split["corpus"] != joined["corpus"]


def test_statistics_of_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    statistics_of(lm_of("gpt2")).save(path)
    tuned = tiny_lm("gpt2", edited_blocks=(0, 1))
    tuned.model.get_input_embeddings().weight.data[0, 0] += 1e-12
    for other in (tuned, tiny_lm("gpt2", edited_blocks=(0, 1), seed=1), lm_of("llama")):
        with pytest.raises(InputError, match=r"weights .* again"):
            KeyStatistics.load(path, other)


def test_statistics_of_other_layers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    statistics_of(tiny_lm("gpt2", edited_blocks=(0,))).save(path)
    with pytest.raises(InputError, match=r"no statistics of transformer\.h\.1\.mlp\.c_proj; make"):
        KeyStatistics.load(path, lm_of("gpt2"))
    statistics_of(lm_of("gpt2")).save(path)
    fewer = KeyStatistics.load(path, tiny_lm("gpt2", edited_blocks=(1,)))
    assert list(fewer.covariances) == ["transformer.h.1.mlp.c_proj"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    statistics_of(lm_of("gpt2")).save(path)
    covariances, metadata = read_safetensors(path)
    next(iter(covariances.values()))[3, 4] += 1e-9
    write_safetensors(path, covariances, metadata)
    with pytest.raises(
        InputError, match=r"damaged .* make them with `malmen key-statistics` again"
    ):
        KeyStatistics.load(path, lm_of("gpt2"))


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="no key statistics; make them with"):
        KeyStatistics.load(path, lm_of("gpt2"))


# --- the command ---


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    """Run `malmen key-statistics` in this process; return its exit status."""
    quiet = transformers.utils.logging.get_verbosity
    monkeypatch.setattr(transformers.utils.logging, "set_verbosity_error", quiet)
    monkeypatch.setattr(transformers.utils.logging, "disable_progress_bar", quiet)
    monkeypatch.setattr(sys, "argv", ["malmen", "key-statistics", *map(str, words)])
    try:
        main()
    except SystemExit as end:
        return end.code
    return 0


def test_the_command_writes_what_memit_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights, facts = write_lm(tmp_path / "lm", "gpt2_desk"), tmp_path / "facts.jsonl"
    out, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_facts(facts, [Fact(f"City {i}", "country", "Peru", "city", 10**7) for i in range(50)])
    words = ("--lm", "gpt2_desk", "--weights", weights, "--facts", facts, "--samples", "20")
    for path in (out, again):
        assert run(monkeypatch, *words, "--length", "24", "--out", path) == 0
    assert out.read_bytes() == again.read_bytes()
    entry = lookup("gpt2_desk").editing("memit")
    statistics = KeyStatistics.load(out, LanguageModel.load(weights, entry))
    assert list(statistics.covariances) == list(entry.memit)
    assert statistics.source["texts"] == 20
    metadata = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert metadata["settings"].items() >= {"lm": "gpt2_desk", **statistics.source}.items()
    assert metadata["wall_seconds"] > 0

    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    words = ("--lm", "gpt2_desk", "--weights", weights, "--texts", texts, "--samples", "7")
    assert run(monkeypatch, *words, "--out", out) == 0
    statistics = KeyStatistics.load(out, LanguageModel.load(weights, entry))
    assert statistics.source["texts"] == 7


@pytest.mark.parametrize("sources", [(), ("--facts", "a", "--texts", "b")])
def test_the_command_wants_one_source_of_texts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    sources: tuple[str, ...],
) -> None:
    words = ("--lm", "gpt2_desk", "--weights", tmp_path, "--out", tmp_path / "a", *sources)
    assert run(monkeypatch, *words) == 2
    said = capsys.readouterr().err
    assert said == ("malmen: error: name one source of texts: --facts, --texts or --dataset\n")
