import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import METADATA, evaluation

from malmen.results import per_fact
from malmen.results.search import trials
from malmen.support.errors import InputError


def write_trial(
    folder: Path, number: int, scores: tuple[float, float, float], settings: dict[str, Any]
) -> Path:
    path = folder / f"malmen_{number}.parquet"
    es, gs, ls = scores
    frame = evaluation("MALMEN", counts=(8,), sets=2).assign(es=es, gs=gs, ls=ls)
    per_fact.write(path, frame, {**METADATA, "settings": settings, "wall_seconds": 1.5})
    return path


def test_trials_are_listed_best_first(tmp_path: Path) -> None:
    scores = [(0.5, 0.25, 0.5), (1.0, 0.5, 0.5), (1.0, 1.0, 0.0)]
    paths = [
        write_trial(tmp_path, i, score, {"learning_rate": 10.0**-i, "edits": 8})
        for i, score in enumerate(scores)
    ]
    table = trials(paths)
    assert list(table["learning_rate"]) == [0.1, 1.0, 0.01]
    assert list(table["es"]) == [1.0, 0.5, 1.0]
    # The harmonic mean: the best plain mean is last, since nothing unrelated survived.
    assert list(table["score"]) == pytest.approx([0.6, 0.375, 0.0])
    assert set(table["edits"]) == {8}
    assert set(table["facts"]) == {16}
    assert set(table["seconds"]) == {1.5}


def test_a_trained_editor_brings_its_training(tmp_path: Path) -> None:
    path = write_trial(tmp_path, 0, (1.0, 1.0, 1.0), {"sets": 2})
    training = {"settings": {"rank": 8}, "wall_seconds": 60.0}
    path.with_suffix(".json").write_text(json.dumps(training), encoding="utf-8")
    (row,) = trials([path]).to_dict("records")
    assert row["rank"] == 8
    assert row["seconds"] == 60


def test_settings_that_some_trials_lack_stay_empty(tmp_path: Path) -> None:
    good, bad = (0.5, 0.5, 0.5), (0.4, 0.4, 0.4)
    table = trials(
        [write_trial(tmp_path, 0, good, {"epochs": 5}), write_trial(tmp_path, 1, bad, {"rank": 8})]
    )
    assert table.loc[0, "epochs"] == 5
    assert pd.isna(table.loc[0, "rank"])


def test_nothing_to_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no evaluations given"):
        trials([])
    with pytest.raises(InputError, match=r"absent\.parquet: no such file"):
        trials([tmp_path / "absent.parquet"])
