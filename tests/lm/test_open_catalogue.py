import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from configurations import load
from tiny_models import tiny_model, tiny_tokenizer

from malmen.__main__ import main
from malmen.experiment.consistency import check
from malmen.lm import open_catalogue
from malmen.lm.catalogue import VARIABLE, catalogue, lookup, shipped, use
from malmen.lm.language_model import LanguageModel
from malmen.lm.open_catalogue import completed, read_catalogue
from malmen.lm.weights import conversion, manifest
from malmen.support.errors import InputError
from malmen.support.files import read_json

CLASSES = ("qwen2", "llama", "gemma", "opt", "neox", "bert")


@pytest.fixture(autouse=True)
def _only_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, "")
    catalogue.cache_clear()
    yield
    catalogue.cache_clear()


def written(folder: Path, kind: str) -> Path:
    """Write a tiny model of a class as its users have it."""
    tiny_model(kind).float().save_pretrained(folder)
    tiny_tokenizer(kind).save_pretrained(folder)
    return folder


def file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_may_be_named_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "mine", "qwen2")
    models = file(tmp_path / "models.yaml", f"mine:\n  folder: {tmp_path / 'mine'}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "models.yaml")  # as a shell exports it, and a configuration says
    use([models, "models.yaml"])
    assert list(catalogue())[-1] == "mine"


@pytest.mark.parametrize("kind", CLASSES)
def test_five_lines_add_a_model(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = written(tmp_path / kind, kind)
    lines = f"mine:\n  title: Mine\n  credit: Me\n  folder: {folder}\n  dtype: float32\n"
    with caplog.at_level(logging.INFO, logger="malmen"):
        use([file(tmp_path / "models.yaml", lines)])
        entry = lookup("mine")
        assert lookup("mine") is entry
    [said] = caplog.messages  # once
    assert said.startswith("mine: derived from its architecture: task ")
    assert entry.edited[-1] in said
    assert entry.task == ("verdict" if kind == "bert" else "completion")
    assert (entry.frozen, entry.figure, entry.attributions) == (2, "mine", ["Me"])
    conversion.copy(entry, folder, out=tmp_path / "out")
    manifest.verify(tmp_path / "out")
    assert tuple(LanguageModel.load(tmp_path / "out", entry).layers) == entry.edited
    (folder / "model.safetensors").unlink()  # it was copied
    assert LanguageModel.load(tmp_path / "out", entry).shapes


def test_what_is_given_is_kept(tmp_path: Path) -> None:
    folder = written(tmp_path / "llama", "llama")
    up = '["model.layers.{1..2}.mlp.up_proj"]'
    lines = f"mine:\n  folder: {folder}\n  edited: {up}\n  alternative: {up}\n"
    entry = read_catalogue(file(tmp_path / "models.yaml", lines))["mine"]
    layers = tuple(f"model.layers.{block}.mlp.up_proj" for block in (1, 2))
    assert entry.edited == entry.alternative == layers
    assert entry.frozen == 1
    assert entry.blocks == "model.layers"
    assert entry.title == "mine"


def test_a_model_of_a_hub_is_completed_when_its_weights_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_catalogue, "FETCHED", tmp_path / "lm")
    path = file(tmp_path / "models.yaml", "mine:\n  hub: {repository: me/mine}\n")
    before = read_catalogue(path)["mine"]
    assert before.is_open
    assert before.edited == ()
    assert before.hub is not None
    assert before.hub.revision == "main"
    folder = written(tmp_path / "lm" / "mine", "opt")
    after = read_catalogue(path)["mine"]
    assert after == completed(before, folder)
    assert after.edited == ("model.decoder.layers.2.fc2",)
    assert not after.is_open


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "mine: {folder: x, edit: []}",
            r"models.yaml: mine: unknown key 'edit' \(did you mean 'ed",
        ),
        ("mine: {hub: {repo: me/mine}}", r"mine: hub: unknown key 'repo' \(choices: repository"),
        ("mine: {hub: {revision: main}}", "mine: hub: key 'repository' is missing"),
        ("mine: {package: {name: x}}", "mine: package: key 'version' is missing"),
        ("mine: {title: Mine}", "mine: needs one source"),
        ("mine: {folder: x, hub: {repository: me/mine}}", "mine: needs one source"),
        ("Mine: {folder: x}", "Mine: a name is of small letters"),
        ("mine: here", "mine: expected keys and values"),
        ("[mine]", "expected names of language models"),
        ("mine: {", "not a file of language models: while parsing"),
        ("smollm2: {folder: x}", "there is a language model 'smollm2' already"),
    ],
)
def test_mistakes_are_named_with_the_file(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why) as error:
        use([file(tmp_path / "models.yaml", text)])
    assert "models.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: not a file of language models"):
        use([tmp_path / "none.yaml"])


def test_shipped_entries_are_as_they_were(tmp_path: Path) -> None:
    assert dict(catalogue()) == dict(shipped())
    folder = written(tmp_path / "llama", "llama")
    assert completed(lookup("minilm"), folder) is lookup("minilm")


def test_the_option_may_stand_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "llama", "llama")
    models = file(tmp_path / "models.yaml", f"mine:\n  folder: {folder}\n")
    out = tmp_path / "out"
    options = ["--lm", "mine", "--downloads", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["malmen", "fetch", "--catalogue", str(models), *options])
    main()
    source = read_json(out / manifest.FILE)
    assert source["folder"] == str(folder)
    assert set(source["copied"]) == {path.name for path in folder.iterdir()}
    assert os.environ[VARIABLE] == str(models)  # for whatever the command starts


def test_a_wrong_file_ends_the_command_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = file(tmp_path / "models.yaml", "mine: {fodler: x}")
    monkeypatch.setattr("sys.argv", ["malmen", f"--catalogue={models}", "plan", "--lm", "mine"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"malmen: error: {models}: mine: unknown key 'fodler' (did you mean 'fo")


@pytest.mark.parametrize("kind", CLASSES)
def test_a_plan_is_made_of_what_is_here(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / kind, kind)
    models = file(tmp_path / "m.yaml", f"mine: {{folder: {folder}}}\nyours: {{folder: nowhere}}\n")
    words = ["malmen", f"--catalogue={models}", "plan", "--edits", "4", "--lm"]
    monkeypatch.setattr("sys.argv", [*words, "mine"])
    main()
    assert "a step of MALMEN's meta-training, 4 edits: 0.0 GB" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*words, "yours"])
    with pytest.raises(SystemExit):
        main()
    assert "yours: what is edited of it is known once its weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("mine: {hub: {repository: me/mine}}", "weights are here: malmen fetch --catalogue FILE"),
        (
            "mine: {hub: {repo: me/mine}}",
            r"configuration: models\[0\]: .*s.yaml: mine: hub: unkn",
        ),
    ],
)
def test_the_configuration_names_what_is_wrong(lines: str, why: str, tmp_path: Path) -> None:
    config = load("smoke")
    config["language_models"]["mine"] = config["language_models"]["smollm2"]
    config["run"]["language_models"] = ["mine"]
    with pytest.raises(InputError, match=why):
        check({**config, "models": [str(file(tmp_path / "models.yaml", lines))]})
