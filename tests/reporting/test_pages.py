from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmen.reporting.pages import plain, write_page

SUMMARY = {"notes": [], "claims": "", "figures": [], "files": [], "answers": {}, "credited": []}


@given(text=st.text())
def test_plain_text_is_one_printable_line(text: str) -> None:
    line = plain(text)
    assert line.isprintable()
    assert line.split() == "".join(sign if sign.isprintable() else " " for sign in text).split()
    assert plain(line) == line


def test_markdown_is_taken_as_it_is(tmp_path: Path) -> None:
    write_page(tmp_path / "page.md", "summary.md.j2", table="a < b & c", **SUMMARY)
    assert "\na < b & c\n" in (tmp_path / "page.md").read_text("utf-8")


def test_a_page_lacks_nothing_or_is_not_written(tmp_path: Path) -> None:
    for template in ("summary.md.j2", "report.html.j2"):
        with pytest.raises(jinja2.UndefinedError):
            write_page(tmp_path / "page", template)
    assert not list(tmp_path.iterdir())
