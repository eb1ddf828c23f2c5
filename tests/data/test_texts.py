import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flaky_server import COMMIT, Server, cut, serving, status
from hub_wikipedia import DUMP, REPOSITORY, publish_wikipedia

from malmen.data.texts import read_texts
from malmen.support.errors import InputError

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
        list(read_texts(write(tmp_path / "a.xml", "a")))


# --- data sets of the hub ---

STREAM = """
import json, sys
from malmen.data.texts import stream_dataset
from malmen.support.errors import InputError
def read(name, seed):
    try:
        return list(stream_dataset(name, seed=seed))
    except (InputError, OSError) as error:
        return f"{type(error).__name__}: {error}"
print(json.dumps([read(*what) for what in json.loads(sys.argv[1])]))
"""
ARTICLES = [f"Article {i}" for i in range(60)]
NAME = f"{REPOSITORY}:{DUMP}"


@dataclass(frozen=True)
class Hub:
    """A hub on the loopback interface, whose client keeps what it keeps in a folder."""

    server: Server
    home: Path

    def streamed(self, *wanted: tuple[str, int]) -> list[Any]:
        """Stream data sets, each with a seed, or return the errors that this ends with.

        This takes a process of its own: the address of the hub is read once a process.
        """
        environment = {
            "HF_ENDPOINT": self.server.url,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", STREAM, json.dumps(wanted)],
            env=kept | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        texts: list[Any] = json.loads(done.stdout)
        return texts


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving() as server:
        yield Hub(server, tmp_path / "hub")


def test_a_data_set_is_streamed_from_a_hub(hub: Hub) -> None:
    files = publish_wikipedia(hub.server, ARTICLES)
    found, again, other = hub.streamed((NAME, 3), (NAME, 3), (NAME, 4))
    assert sorted(found) == sorted(other) == sorted(ARTICLES)
    assert found not in (ARTICLES, other)
    assert again == found
    asked = {path.partition(f"/{COMMIT}/")[2] for path, _ in hub.server.asked}
    assert {name for name in asked if name.endswith(".parquet")} == set(files)
    assert not list(hub.home.rglob("*.parquet"))


@pytest.mark.slow
def test_texts_come_from_all_files_and_all_their_parts(hub: Hub) -> None:
    number = 12_000  # more than are mixed at a time; in file k of 3 those that are k modulo 3
    publish_wikipedia(hub.server, [str(i) for i in range(number)], rows_a_group=100)
    [texts] = hub.streamed((NAME, 0))
    first = [int(text) for text in texts[:2000]]
    assert {i % 3 for i in first} == {0, 1, 2}
    thirds = [sum(low <= i < low + number // 3 for i in first) for low in range(0, number, 4000)]
    assert min(thirds) > len(first) / 10


@pytest.mark.slow
def test_streaming_outlives_cut_connections_and_busy_servers(hub: Hub) -> None:
    first, second, _ = publish_wikipedia(hub.server, ARTICLES)
    for name, faults in {first: [cut(100), status(503)], second: [status(500), cut(0)]}.items():
        hub.server.faults[f"/datasets/{REPOSITORY}/resolve/{COMMIT}/{name}"] = faults
    [texts] = hub.streamed((NAME, 0))
    assert sorted(texts) == sorted(ARTICLES)
    assert not any(hub.server.faults.values())  # every one has happened


@pytest.mark.slow
def test_a_data_set_that_is_not_as_asked_for_is_refused(hub: Hub) -> None:
    publish_wikipedia(hub.server, ARTICLES, columns=("id", "title"))
    other = f"{REPOSITORY}:20240101.en"
    fields, dump, missing = hub.streamed((NAME, 0), (other, 0), ("some/other", 0))
    assert fields == f"InputError: data set {NAME}: no field 'text', but 'id', 'title'"
    assert dump.startswith(f"InputError: data set {other}: BuilderConfig ")
    assert DUMP in dump  # one of those that there are
    assert "Couldn't find 'some/other' on the Hugging Face Hub" in missing
