import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from latex import compile_latex
from row_files import FEVER
from tiny_folders import write_lines, write_lm, zsre_line

from malmen.experiment.published_settings import published_settings
from malmen.settings import (
    FineTuningSettings,
    HyperSettings,
    MemitSettings,
    TokenSettings,
    TrainingSettings,
)
from malmen.support.errors import InputError
from malmen.tables.fact_sheets import table_3, table_4
from malmen.tables.typesetting import write_table

LMS = ("t5_desk", "fact_checker")


def run_settings(**malmen: object) -> dict[str, Any]:
    hyper = {"rank": 8, "learning_rate": 1e-3, "cached": "ans", **malmen}
    schedule = [{"edits": 4, "steps": 3}, {"edits": 8, "steps": 1}]
    editors = {"malmen": hyper, "ft": {"epochs": 2}}
    return {lm: {"training": schedule, "editors": editors} for lm in LMS}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(run_settings()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("files")
    weights = [write_lm(folder / "lm" / lm, lm) for lm in LMS]
    (weights[1] / "accuracy.json").write_text('{"training": 0.9, "held_out": 0.75}')
    rows = []
    for lm in LMS:
        for number, split in enumerate(("train", "validation", "evaluation"), 1):
            path = folder / "rows" / lm / f"{split}.jsonl"
            texts = [f"{split} {i}" for i in range(2 * number)]
            lines = [
                FEVER | {"prompt": text, "subject": text}
                if lm == "fact_checker"
                else zsre_line(i, src=f"{text}?", subject=text, relation="country")
                for i, text in enumerate(texts)
            ]
            rows.append(write_lines(path, lines))
    return {"weights": weights, "rows": rows}


def test_hyper_parameters_stand_beside_the_published_ones(settings: Path) -> None:
    table = table_3(settings=settings)
    (grid,) = table.grids
    titles = ["Editor", "Hyper-parameter", "Published", "MiniLM fact checker", "T5 (desk)"]
    assert grid.columns == titles
    cells = {
        (grid.cell(row, "Editor").text, grid.cell(row, "Hyper-parameter").text): [
            grid.cell(row, name).text for name in titles[2:]
        ]
        for row in grid.rows
    }
    assert cells["MALMEN", "rank"] == ["1920", "8", "8"]
    assert cells["MALMEN", "learning rate"] == ["1e-06", "0.001", "0.001"]
    assert cells["MALMEN", "training"] == ["1 epoch", *(["3 at 4, 1 at 8"] * 2)]
    assert cells["MALMEN", "clip"] == ["1", "–", "–"]
    assert cells["FT", "epochs"] == ["5", "2", "2"]
    assert {editor for editor, _ in cells} == {"FT", "MALMEN"}


def test_published_settings_are_the_defaults() -> None:
    defaults: dict[str, dict[str, Any]] = {
        "malmen": asdict(HyperSettings()) | asdict(TrainingSettings()),
        "ft": asdict(FineTuningSettings()),
        "memit": asdict(MemitSettings()),
    }
    defaults["mend"] = defaults["malmen"] | {"cached": "all"}  # its default is a choice of the run
    defaults["ultraedit"] = asdict(TokenSettings()) | {"token_batch": 128}
    for editor, known in published_settings().items():
        values = {key: value for key, value in known["values"].items() if key != "training"}
        assert values == {key: defaults[editor][key] for key in values}


def test_data_and_language_models(
    settings: Path, files: dict[str, list[Path]], tmp_path: Path
) -> None:
    facts = write_lines(tmp_path / "facts.jsonl", ["{}", "{}", ""])
    table = table_4(settings=settings, facts=facts, **files)
    assert "2 facts" in table.caption
    checker, t5 = table.data.to_dict("records")
    assert [checker["lm"], t5["lm"]] == ["fact_checker", "t5_desk"]
    for row in (checker, t5):
        assert [row[f"{split}_rows"] for split in ("train", "validation", "evaluation")] == [
            2,
            4,
            6,
        ]
        assert row["subjects"] == 12
    assert [checker["relations"], t5["relations"]] == [0, 1]
    assert [checker["known_accuracy"], checker["held_out_accuracy"]] == [0.9, 0.75]
    assert checker["edited"] == "bert.encoder.layer.{3..5}.output.dense (24 × 16)"
    assert t5["edited"] == (
        "decoder.block.{2..3}.layer.2.DenseReluDense.wi_0 (16 × 24); "
        "decoder.block.{2..3}.layer.2.DenseReluDense.wo (24 × 16); "
        "encoder.block.{2..3}.layer.1.DenseReluDense.wi_0 (16 × 24); "
        "encoder.block.{2..3}.layer.1.DenseReluDense.wo (24 × 16)"
    )
    assert [checker["blocks"], t5["blocks"]] == [6, 8]
    assert checker["cached"] == "the first, [CLS]"
    assert t5["cached"] == "every token of encoder and decoder"
    assert checker["origin"].startswith("fine-tuned here from all-MiniLM-L6-v2")
    assert t5["origin"] == "built and pre-trained here on the facts"


def test_parameters_are_those_of_the_weights(settings: Path, files: dict[str, list[Path]]) -> None:
    from safetensors import safe_open

    data = table_4(settings=settings, **files).data.set_index("lm")
    for folder in files["weights"]:
        with safe_open(folder / "model.safetensors", framework="pt") as weights:
            names = weights.keys()
            sizes = [weights.get_tensor(name).numel() for name in names]
        assert data.loc[folder.name, "parameters"] == sum(sizes)


def test_both_tables_compile_and_fit_the_page(
    settings: Path, files: dict[str, list[Path]], tmp_path: Path
) -> None:
    write_table(table_3(settings=settings), tmp_path)
    write_table(table_4(settings=settings, **files), tmp_path)
    assert "Overfull" not in compile_latex(tmp_path, "3", "4")


def test_what_is_missing_is_named(
    settings: Path, files: dict[str, list[Path]], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"none.json: no such file"):
        table_3(settings=tmp_path / "none.json")
    with pytest.raises(InputError, match=r"no --weights of t5_desk"):
        table_4(settings=settings, weights=files["weights"][1:], rows=files["rows"])
    with pytest.raises(InputError, match=r"no --rows of fact_checker/evaluation.jsonl"):
        table_4(settings=settings, weights=files["weights"], rows=files["rows"][:-1])
    empty = tmp_path / "t5_desk"
    empty.mkdir()
    with pytest.raises(InputError, match=r"t5_desk: no language model there"):
        table_4(settings=settings, weights=[empty, files["weights"][1]], rows=files["rows"])
