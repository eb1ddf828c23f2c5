import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import datasets
import pytest
import torch
from tiny_models import tiny_lm

from malmen.data import geonames
from malmen.data.geonames import Fact
from malmen.data.texts import desk_texts, read_texts, sample_texts, stream_dataset
from malmen.errors import InputError

STARTS = ["The", "What is", "A", "Where", "The"]
FACTS = [
    Fact(f"City {i}", "country", ("Peru", "France", "Chad")[i % 3], "city", 10**7 - i)
    for i in range(200)
]


def sample(**options: Any) -> list[str]:
    given = {"length": 5, "seed": 0, "progress": False, **options}
    return sample_texts(tiny_lm("gpt2"), STARTS, **given)


def test_every_text_goes_on_from_its_start() -> None:
    lm = tiny_lm("gpt2")
    for start, text in zip(STARTS, sample(), strict=True):
        assert text.startswith(start)
        assert len(text) > len(start)
        [ids] = lm.tokenizer([start])["input_ids"]
        assert len(text.encode()) > len(ids)


def test_texts_are_of_the_seed() -> None:
    assert sample() == sample()
    assert sample() != sample(seed=1)
    first, *_, last = sample()
    assert first != last  # the same start twice


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    sample()
    assert torch.equal(torch.get_rng_state(), before)


def test_texts_have_the_distribution_of_the_language_model() -> None:
    lm = tiny_lm("llama")
    n = 2000
    texts = sample_texts(lm, ["A"] * n, length=1, seed=0, text_batch=n, progress=False)
    [batch] = lm.batches([lm.encode("A", "B")], size=1)
    probabilities = lm.logits(batch)[0].softmax(dim=-1)
    tokens = probabilities.argsort(descending=True).tolist()
    token = next(t for t in tokens if lm.tokenizer.decode([t]).isalnum())  # not half a letter
    expected, word = probabilities[token].item(), lm.tokenizer.decode([token])
    share = sum(text == f"A{word}" for text in texts) / n
    assert abs(share - expected) < 5 * (expected * (1 - expected) / n) ** 0.5


def test_desk_texts_are_facts_and_sampled_texts() -> None:
    lm = tiny_lm("gpt2")
    texts = desk_texts(lm, FACTS, n=9, length=4, seed=0)
    known = geonames.split_subjects(FACTS, seed=0)["unrelated_train"]
    stated = {f"{prompt} {answer}" for prompt, answer in geonames.all_prompts(known)}
    assert len(texts) == 9
    assert set(texts[:5]) <= stated
    assert len(set(texts[:5])) == 5
    for fact, text in zip(texts[:4], texts[5:], strict=True):
        assert text.startswith(fact.split()[0])
    assert texts == desk_texts(lm, FACTS, n=9, length=4, seed=0)
    assert texts != desk_texts(lm, FACTS, n=9, length=4, seed=1)


@pytest.mark.parametrize("n", [0, 10**6])
def test_more_texts_than_there_are_facts_are_refused(n: int) -> None:
    with pytest.raises(InputError, match=f"{n} texts asked for; the facts give 1 to"):
        desk_texts(tiny_lm("gpt2"), FACTS, n=n, length=4, seed=0)


# --- files ---


def write(path: Path, text: str) -> Path:
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_texts_are_read_from_lines(tmp_path: Path, suffix: str) -> None:
    lines = write(tmp_path / f"a.txt{suffix}", "Ein Text\n\n  Łódź \n")
    assert list(read_texts(lines)) == ["Ein Text", "Łódź"]
    rows = [json.dumps({"text": text, "id": 1}) for text in ("Ein\nText", "Łódź")]
    records = write(tmp_path / f"a.jsonl{suffix}", "\n".join(rows))
    assert list(read_texts(records)) == ["Ein\nText", "Łódź"]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(read_texts(tmp_path / "missing.jsonl"))
    with pytest.raises(InputError, match=r"field 'text': missing"):
        list(read_texts(write(tmp_path / "a.jsonl", '{"words": "a"}\n')))
    with pytest.raises(InputError, match="unknown kind of file"):
        list(read_texts(write(tmp_path / "a.csv", "a")))


class Hub:
    """A data set as `datasets` streams it."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def load_dataset(self, *args: object, **options: object) -> Self:
        self.calls.append((*args, options))
        return self

    def shuffle(self, *, seed: int) -> Self:
        self.calls.append(seed)
        return self

    def __iter__(self) -> Iterator[dict[str, str]]:
        yield from ({"title": "a", "text": f"text {i}"} for i in range(2))


@pytest.mark.parametrize(
    ("name", "loaded"),
    [("wikimedia/wikipedia:20231101.en", "20231101.en"), ("wikimedia/wikipedia", None)],
)
def test_a_data_set_is_streamed(
    monkeypatch: pytest.MonkeyPatch, name: str, loaded: str | None
) -> None:
    hub = Hub()
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    assert list(stream_dataset(name, seed=3)) == ["text 0", "text 1"]
    options = {"split": "train", "streaming": True}
    assert hub.calls == [("wikimedia/wikipedia", loaded, options), 3]
