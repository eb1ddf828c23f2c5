from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from malmen.figures.drawing import Caption, Drawing, figure_number, read_caption, save
from malmen.support.errors import InputError

prose = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1).map(
    lambda text: f"x{text}x"  # a PNG's keywords and texts hold no blanks at the ends
)


def drawing(caption: Caption) -> Drawing:
    figure = Figure(figsize=(1, 1))
    figure.text(0.5, 0.5, "text")
    return Drawing(figure, caption, pd.DataFrame({"value": [0.1, 1 / 3]}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figures")


@given(headline=prose, text=prose)
def test_a_caption_travels_with_the_picture(folder: Path, headline: str, text: str) -> None:
    caption = Caption(headline, text)
    _, png, _ = save(lambda: drawing(caption), "04", folder)
    assert read_caption(png) == caption


def test_data_are_kept_exactly(tmp_path: Path) -> None:
    made = drawing(Caption("a", "b"))
    *_, csv = save(lambda: made, "S1", tmp_path)
    assert csv.name == "figure_S1.csv"
    pd.testing.assert_frame_equal(pd.read_csv(csv), made.data, check_exact=True)


def test_the_pdf_has_a_title_no_date_and_real_text(tmp_path: Path) -> None:
    with mpl.rc_context({"pdf.compression": 0}):
        pdf, *_ = save(lambda: drawing(Caption("Scaling curve", "Of words.")), "04", tmp_path)
    content = pdf.read_bytes()
    assert b"/Title (Figure 4: Scaling curve)" in content
    assert b"/Subject (Of words.)" in content
    assert b"CreationDate" not in content
    assert b"/FontType 42" in content or b"/CIDFontType2" in content
    assert b"/Type3" not in content


def test_the_style_ends_with_the_figure(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    sizes = []

    def draw() -> Drawing:
        sizes.append(mpl.rcParams["font.size"])
        return drawing(Caption("a", "b"))

    save(draw, "04", tmp_path)
    assert dict(mpl.rcParams) == before
    assert sizes[0] != before["font.size"]


@pytest.mark.parametrize(
    ("name", "printed"), [("04", "Figure 4"), ("11", "Figure 11"), ("S1", "Figure S1")]
)
def test_numbers_in_print(name: str, printed: str) -> None:
    assert figure_number(name) == printed


def test_pictures_without_a_caption_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.png: no such file"):
        read_caption(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png: not a picture"):
        read_caption(tmp_path / "text.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "bare.png")
    with pytest.raises(InputError, match=r"bare\.png: no caption"):
        read_caption(tmp_path / "bare.png")
