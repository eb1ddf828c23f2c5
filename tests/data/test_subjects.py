"""A subject is found where the prompt names it, in any script, and nowhere else."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmen.data.subjects import folded, subject_end
from malmen.support.errors import InputError

WORDS = st.text(st.sampled_from("abcdéüßλя7"), min_size=1, max_size=8)
NAMES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
UNSPACED = st.text(st.sampled_from("奥尔文湖東京タワーกรุงเทพ서울"), min_size=1, max_size=6)
FORMS = st.sampled_from(["NFC", "NFD"])


@given(name=NAMES, before=st.sampled_from(["", "Is ", "«", "It's "]), form=FORMS, other=FORMS)
def test_a_subject_is_found_however_its_letters_are_composed(
    name: str, before: str, form: str, other: str
) -> None:
    prompt = before + unicodedata.normalize(form, name) + ", which?"
    end = subject_end(unicodedata.normalize(other, name), prompt)
    assert prompt[end:].endswith(", which?") or name in prompt[:end]
    assert unicodedata.normalize("NFC", prompt[:end]).endswith(unicodedata.normalize("NFC", name))


@given(name=UNSPACED, before=UNSPACED, behind=UNSPACED.filter(str.isalpha))
def test_a_subject_stands_between_letters_where_words_have_no_spaces(
    name: str, before: str, behind: str
) -> None:
    if unicodedata.category(name[0])[0] == "M" or unicodedata.category(behind[0])[0] == "M":
        return
    prompt = before + name + behind
    assert prompt[: subject_end(name, prompt)].endswith(name)


@pytest.mark.parametrize(
    ("subject", "prompt"),
    [
        ("Ann", "What are the Annals?"),
        ("Cafe", "Who runs the Cafe\u0301?"),
        ("दिल्ल", "दिल्ली कहाँ है"),
        ("奥尔文湖1", "奥尔文湖10位于"),
        ("Ada", "Who is it?"),
    ],
)
def test_a_part_of_a_word_is_no_subject(subject: str, prompt: str) -> None:
    with pytest.raises(InputError, match="does not occur in"):
        subject_end(subject, prompt)


@pytest.mark.parametrize(
    ("subject", "prompt", "near"),
    [
        ("O\u2019Brien", "Who is O'Brien, then", "O'Brien,"),
        ("Lake Orvan", "where is lake orvan in", "lake orvan"),
        ("São Paulo", "where is Sao Paulo in", "Sao Paulo"),
        ("Jean-Luc", "who is Jean\u2013Luc now", "Jean\u2013Luc"),
        ("zero\u200bwidth", "is zerowidth here", "zerowidth"),
        ("Berlin", "Who runs Berlins senate", "Berlins"),
    ],
)
def test_what_is_near_is_named(subject: str, prompt: str, near: str) -> None:
    with pytest.raises(InputError, match=f"but ['\"]{near}['\"] does, which is near"):
        subject_end(subject, prompt)


def test_one_of_several_places_can_be_told() -> None:
    prompt = "Unlike Orvan of Mali, the capital of Orvan is"
    assert subject_end("Orvan", prompt) == len("Unlike Orvan")
    assert subject_end("Orvan", prompt, at=37) == len("Unlike Orvan of Mali, the capital of Orvan")
    with pytest.raises(InputError):
        subject_end("Orvan", prompt, at=3)


def test_long_prompts_are_quoted_in_part() -> None:
    with pytest.raises(InputError) as error:
        subject_end("Ada", "deep, " * 9000)
    assert len(str(error.value)) < 300


@given(text=st.text())
def test_folding_is_idempotent_and_blind_to_case_and_spacing(text: str) -> None:
    once = folded(text)
    assert folded(once) == once
    assert folded(f"  {text}  ") == once
    assert folded(text.casefold()) == folded(text.casefold().replace(" ", "  "))
