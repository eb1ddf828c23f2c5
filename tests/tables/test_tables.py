from pathlib import Path

import pytest
from latex import compile_latex
from synthetic_run import Run, write_run

from malmen.support.errors import InputError
from malmen.tables import TABLES, make_table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("run"))


def test_tables_of_scores_compile_and_fit_the_page(run: Run, tmp_path: Path) -> None:
    make_table("1", tmp_path, evaluations=run.evaluations)
    make_table("1b", tmp_path)
    make_table("2", tmp_path, evaluations=[run.evaluations[4], *run.ablations])
    make_table("5", tmp_path, evaluations=run.evaluations, trained=run.trained, facts=None)
    log = compile_latex(tmp_path, "1", "1b", "2", "5")
    assert "Overfull" not in log
    assert "too large" not in log


def test_a_missing_option_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="table 1 needs --evaluations"):
        make_table("1", tmp_path, evaluations=[])
    with pytest.raises(InputError, match="table 4 needs --weights"):
        make_table("4", tmp_path, settings=run.memory, rows=[run.memory])
    assert not list(tmp_path.iterdir())


def test_an_option_that_is_not_taken_is_refused(run: Run, tmp_path: Path) -> None:
    files = {"evaluations": run.evaluations, "facts": run.memory}
    with pytest.raises(InputError, match=r"takes no --facts \(it takes --evaluations\)"):
        make_table("1", tmp_path, **files)
    with pytest.raises(InputError, match=r"takes no --facts \(it takes no files\)"):
        make_table("1b", tmp_path, facts=run.memory)


def test_an_unknown_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"unknown table 9; choose from {', '.join(TABLES)}"):
        make_table("9", tmp_path)
