"""Language models from the hub: whole, verified, in safetensors; or a message that helps."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
from flaky_server import COMMIT, Server, altered, closed_url, cut, serving, status
from safetensors.torch import load_file
from tiny_folders import write_lm
from tiny_models import tiny_tokenizer
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertModel

from malmen.lm.catalogue import Entry, Hub, lookup
from malmen.lm.language_model import LanguageModel
from malmen.lm.model_tree import auto_class
from malmen.lm.weights import hub, manifest
from malmen.lm.weights.hub import fetch
from malmen.support.errors import InputError
from malmen.support.retries import ATTEMPTS

REPOSITORY = "someone/tiny-gpt2"
WEIGHTS = "model.safetensors"
TINY_BERT = {
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
TRAP = b"raise SystemExit('code of the repository was run')"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 as transformers writes it, beside code that must not run."""
    folder = write_lm(tmp_path_factory.mktemp("model"), "gpt2")
    (folder / "modeling_tiny.py").write_bytes(TRAP)
    return folder


@pytest.fixture
def entry() -> Entry:
    return replace(lookup("gpt2"), hub=Hub(repository=REPOSITORY, revision="main", licence="MIT"))


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with serving() as server:
        server.publish(REPOSITORY, files, large=(WEIGHTS,))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def path_of(name: str) -> str:
    return f"/{REPOSITORY}/resolve/{COMMIT}/{name}"


def fetch_into(tmp_path: Path, entry: Entry) -> Path:
    fetch(entry, downloads=tmp_path / "downloads", out=tmp_path / "lm" / "tiny")
    return tmp_path / "lm" / "tiny"


def test_a_language_model_arrives_complete(
    folder: Path, entry: Entry, server: Server, tmp_path: Path
) -> None:
    modules = set(sys.modules)
    out = fetch_into(tmp_path, entry)
    assert not [name for name in set(sys.modules) - modules if "tiny" in name]
    assert not list(out.rglob("*.py"))
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]  # no scratch is left
    assert not (tmp_path / "downloads" / "gpt2").exists()

    arrived, expected = load_file(out / WEIGHTS), load_file(folder / WEIGHTS)
    assert all(torch.equal(arrived[name], expected[name]) for name in expected)
    assert AutoTokenizer.from_pretrained(out)("Peru")["input_ids"]
    record = json.loads((out / manifest.FILE).read_text())
    assert record["repository"] == REPOSITORY
    assert record["commit"] == COMMIT
    assert record["licence"] == "MIT"
    assert LanguageModel.load(out, entry).model.config.model_type == "gpt2"


def test_weights_of_the_old_kind_become_safetensors_of_the_dtype(
    folder: Path, entry: Entry, server: Server, tmp_path: Path
) -> None:
    old = tmp_path / "pytorch_model.bin"
    torch.save(load_file(folder / WEIGHTS), old)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != WEIGHTS}
    server.publish(REPOSITORY, {**files, old.name: old.read_bytes()}, large=(old.name,))
    out = fetch_into(tmp_path, replace(entry, dtype="bfloat16"))
    assert not list(out.glob("*.bin"))
    tensors = load_file(out / WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def as_published(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name the tensors as the published checkpoints do, which are older than today's classes."""
    mask = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
    if name == "gpt2":  # saved without its head
        bare = {key.removeprefix("transformer."): tensor for key, tensor in tensors.items()}
        return {**bare, "h.0.attn.bias": mask}
    if name == "gptj":
        return {**tensors, "transformer.h.0.attn.bias": mask}
    if name == "bert_base":  # saved with the heads of its pre-training
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new, former in old.items():
            tensors = {key.replace(new, former): tensor for key, tensor in tensors.items()}
        tensors = {f"bert.{key}": tensor for key, tensor in tensors.items()}
        return {**tensors, "cls.predictions.bias": torch.zeros(300)}
    embeddings = tensors["shared.weight"]
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    return {**tensors, **dict.fromkeys(names, embeddings)}


@pytest.mark.parametrize("name", ["gpt2", "gptj", "t5_xl", "bert_base"])
def test_checkpoints_as_they_were_published_are_read(
    server: Server, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "model"
    if name == "bert_base":
        BertModel(BertConfig(**TINY_BERT)).save_pretrained(folder)
        tiny_tokenizer("bert").save_pretrained(folder)
    else:
        write_lm(folder, name)
    old = tmp_path / "pytorch_model.bin"
    torch.save(as_published(name, load_file(folder / WEIGHTS)), old)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != WEIGHTS}
    server.publish(REPOSITORY, {**files, old.name: old.read_bytes()}, large=(old.name,))
    where = Hub(repository=REPOSITORY, revision="main", licence="MIT")
    entry = replace(lookup(name), hub=where, dtype="float32")
    arrived, original = (
        auto_class(entry, AutoConfig.from_pretrained(path)).from_pretrained(path).state_dict()
        for path in (fetch_into(tmp_path, entry), folder)
    )
    assert arrived.keys() == original.keys()
    assert all(torch.equal(arrived[key], tensor) for key, tensor in original.items())


class Trap:
    def __reduce__(self):
        return (exec, (TRAP.decode(),))


def test_a_pickle_with_code_is_refused(
    folder: Path, entry: Entry, server: Server, tmp_path: Path
) -> None:
    old = tmp_path / "pytorch_model.bin"
    torch.save({**load_file(folder / WEIGHTS), "trap": Trap()}, old)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != WEIGHTS}
    server.publish(REPOSITORY, {**files, old.name: old.read_bytes()}, large=(old.name,))
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        fetch_into(tmp_path, entry)
    assert not (tmp_path / "lm" / "tiny").exists()


def test_a_cut_connection_goes_on_where_it_was(
    entry: Entry, server: Server, sleeps: list[float], tmp_path: Path
) -> None:
    server.faults[path_of(WEIGHTS)] = [cut(1000), status(503), status(429, Retry_After="7")]
    assert (fetch_into(tmp_path, entry) / WEIGHTS).exists()
    ranges = [asked for path, asked in server.asked if path == path_of(WEIGHTS)]
    assert ranges[0] == ""
    assert set(ranges[1:]) == {"bytes=1000-"}
    assert any(length >= 7 for length in sleeps)


def test_a_run_that_ended_half_way_goes_on_where_it_was(
    entry: Entry, server: Server, sleeps: list[float], tmp_path: Path
) -> None:
    server.faults[path_of(WEIGHTS)] = [cut(1000)] + [status(503)] * (ATTEMPTS - 1)
    with pytest.raises(InputError, match="status 503"):
        fetch_into(tmp_path, entry)
    server.asked.clear()
    fetch_into(tmp_path, entry)
    assert [asked for path, asked in server.asked if path == path_of(WEIGHTS)] == ["bytes=1000-"]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_corrupted_file_is_fetched_again(
    entry: Entry, server: Server, sleeps: list[float], tmp_path: Path, name: str
) -> None:
    server.faults[path_of(name)] = [altered]
    assert (fetch_into(tmp_path, entry) / WEIGHTS).exists()


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_that_stays_corrupted_is_never_kept(
    entry: Entry, server: Server, sleeps: list[float], tmp_path: Path, name: str
) -> None:
    server.faults[path_of(name)] = [altered] * 99
    with pytest.raises(InputError, match=f"{name} is not the file of the commit") as failure:
        fetch_into(tmp_path, entry)
    for hint in (REPOSITORY, server.url, "HF_ENDPOINT", "by hand", str(tmp_path / "downloads")):
        assert hint in str(failure.value)
    assert not list((tmp_path / "downloads" / "gpt2").glob(f"{name}*"))
    assert not (tmp_path / "lm").exists()


def test_files_supplied_by_hand_are_verified_and_taken(
    folder: Path, entry: Entry, server: Server, tmp_path: Path
) -> None:
    by_hand = tmp_path / "downloads" / "gpt2"
    by_hand.mkdir(parents=True)
    (by_hand / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    fetch_into(tmp_path, entry)
    assert path_of(WEIGHTS) not in [path for path, _ in server.asked]


@pytest.mark.parametrize("code", [401, 404])
def test_a_missing_repository_is_not_asked_for_again(
    entry: Entry, server: Server, sleeps: list[float], tmp_path: Path, code: int
) -> None:
    listing = f"/api/models/{REPOSITORY}/revision/main"
    server.faults[listing] = [status(code)] * 99
    with pytest.raises(InputError, match=f"status {code}"):
        fetch_into(tmp_path, entry)
    assert [path for path, _ in server.asked] == [listing]
    assert not sleeps


def test_without_a_network_the_message_says_what_to_do(
    entry: Entry, sleeps: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = closed_url()
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(InputError) as failure:
        fetch_into(tmp_path, entry)
    for hint in (f"{url}/{REPOSITORY} at main", "HF_ENDPOINT", "by hand", "copy "):
        assert hint in str(failure.value)
    assert not (tmp_path / "lm").exists()


def test_a_full_disk_is_noticed_before(
    entry: Entry, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"GB are free \(make room\)"):
        fetch_into(tmp_path, entry)
    assert [path for path, _ in server.asked] == [f"/api/models/{REPOSITORY}/revision/main"]


def test_a_vocabulary_of_sentencepiece_becomes_a_tokenizer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text"
    text.write_text("\n".join(f"the capital of country {i} is city {i}" for i in range(400)))
    prefix = str(tmp_path / "spiece")
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}  # as in T5
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=prefix, vocab_size=99, minloglevel=2, **ids
    )
    folder = write_lm(tmp_path / "model", "t5_xl")
    files = {name: (folder / name).read_bytes() for name in (WEIGHTS, "config.json")}
    pieces = Path(f"{prefix}.model").read_bytes()
    server.publish(REPOSITORY, {**files, "spiece.model": pieces}, large=(WEIGHTS,))
    where = Hub(repository=REPOSITORY, revision="main", licence="Apache-2.0")
    out = fetch_into(tmp_path, replace(lookup("t5_xl"), hub=where))
    processor = sentencepiece.SentencePieceProcessor(f"{prefix}.model")
    words = "the capital of country 3"
    assert AutoTokenizer.from_pretrained(out)(words)["input_ids"] == [*processor.encode(words), 1]
    assert (out / "tokenizer.json").exists()  # which takes no sentencepiece to read


def test_weights_of_another_shape_are_refused(
    folder: Path, entry: Entry, server: Server, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(files["config.json"])
    config["n_layer"] += 1
    files["config.json"] = json.dumps(config).encode()
    server.publish(REPOSITORY, files, large=(WEIGHTS,))
    with pytest.raises(InputError, match=r"the weights lack transformer\.h"):
        fetch_into(tmp_path, entry)
    assert not (tmp_path / "lm" / "tiny").exists()


def test_a_repository_without_weights(entry: Entry, server: Server, tmp_path: Path) -> None:
    server.publish(REPOSITORY, {"README.md": b"nothing"})
    with pytest.raises(InputError, match=f"{REPOSITORY} at main holds no weights of PyTorch"):
        fetch_into(tmp_path, entry)


def test_not_every_model_is_on_a_hub(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="smollm2 is not on a hub"):
        fetch_into(tmp_path, lookup("smollm2"))


def test_a_changed_folder_is_not_loaded(entry: Entry, server: Server, tmp_path: Path) -> None:
    out = fetch_into(tmp_path, entry)
    manifest.verify(out)
    content = bytearray((out / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (out / WEIGHTS).write_bytes(content)
    with pytest.raises(InputError, match=f"{WEIGHTS}: not the file that was downloaded"):
        LanguageModel.load(out, entry)
