import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmen.results.matching import exact_match, normalise, token_f1

texts = st.text(alphabet=st.sampled_from(" abtheAN.,-'é\n"), max_size=20)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Wizard of Oz!", "wizard of oz"),
        ("a an the", ""),
        ("Theatre, Anna", "theatre anna"),  # an article is a word of its own
        ("U.S.", "us"),
        ("mezzo-soprano", "mezzosoprano"),
        (" Écija\nBalompié ", "écija balompié"),
        ("", ""),
    ],
)
def test_small_letters_without_punctuation_articles_and_surplus_space(
    text: str, wanted: str
) -> None:
    assert normalise(text) == wanted


@given(text=texts)
def test_normalised_text_stays_as_it_is(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(text=texts, other=texts)
def test_scores_are_symmetric_and_agree(text: str, other: str) -> None:
    assert token_f1(text, other) == token_f1(other, text)
    assert 0 <= token_f1(text, other) <= 1
    assert exact_match(text, text) == token_f1(text, text) == 1
    if exact_match(text, other):
        assert token_f1(text, other) == 1


@pytest.mark.parametrize(
    ("text", "truth", "wanted"),
    [
        ("in Paris, France", "Paris", 2 * (1 / 3) / (4 / 3)),
        ("Bahia Bahia Bahia", "Bahia", 2 * (1 / 3) / (4 / 3)),  # repeated in vain
        ("York New", "New York", 1),
        ("Rome", "Paris", 0),
        ("", "Paris", 0),
        ("the", "", 1),
    ],
)
def test_f1_is_of_words_in_common(text: str, truth: str, wanted: float) -> None:
    assert token_f1(text, truth) == pytest.approx(wanted)
