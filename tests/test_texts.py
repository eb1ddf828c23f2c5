import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
import yaml
from flaky_server import COMMIT, Server, serving, status
from tiny_models import tiny_lm

from malmen.data import geonames
from malmen.data.geonames import Fact
from malmen.data.texts import desk_texts, read_texts, sample_texts
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


STREAM = """
import json, sys
from malmen.data.texts import stream_dataset
name, *seeds = sys.argv[1:]
print(json.dumps([list(stream_dataset(name, seed=int(seed))) for seed in seeds]))
"""


def streamed(server: Server, home: Path, name: str, *, seeds: list[str]) -> list[list[str]]:
    """Stream in a process of its own: the address of the hub is read once a process."""
    environment = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", STREAM, name, *seeds],
        env=kept | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    texts: list[list[str]] = json.loads(done.stdout)
    return texts


def parquet(texts: list[str]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"title": texts, "text": texts}), file)
    return file.getvalue()


def test_a_data_set_is_streamed_from_a_hub(tmp_path: Path) -> None:
    kinds = ("20231101.de", "20231101.en")
    card = yaml.safe_dump(
        {
            "configs": [
                {"config_name": kind, "data_files": [{"split": "train", "path": f"{kind}/*"}]}
                for kind in kinds
            ]
        }
    )
    texts = {
        f"{kind}/{part}.parquet": [f"{kind} {part} {i}" for i in range(20)]
        for kind in kinds
        for part in ("train-0", "train-1")
    }
    files = {name: parquet(content) for name, content in texts.items()}
    repository = "wikimedia/wikipedia"
    with serving() as server:
        readme = f"---\n{card}---\n".encode()
        server.publish(f"datasets/{repository}", {"README.md": readme, **files})
        path = f"/datasets/{repository}/resolve/{COMMIT}/{kinds[1]}/train-1.parquet"
        server.faults[path] = [status(503)]
        name = f"{repository}:{kinds[1]}"
        found, again, other = streamed(server, tmp_path, name, seeds=["3", "3", "4"])
        assert not any(kinds[0] in asked and "parquet" in asked for asked, _ in server.asked)
    wanted = [text for name, content in texts.items() if kinds[1] in name for text in content]
    assert sorted(found) == sorted(other) == sorted(wanted)
    assert found not in (wanted, other)
    assert again == found
