"""Pages made from the templates beside this module."""

from pathlib import Path
from typing import Any

import jinja2

from malmen.support.files import atomic
from malmen.tables.typesetting import percent

__all__ = ["plain", "write_page"]


def write_page(out: Path, template: str, **content: Any) -> None:
    """Fill a template in and write the page; equal content gives equal bytes."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("malmen.reporting"),
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": percent, "plain": plain}
    page = environment.get_template(template).render(content)
    with atomic(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def plain(text: str) -> str:
    """Return text on one line, without the control characters an LM may emit."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
