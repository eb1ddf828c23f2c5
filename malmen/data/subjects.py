"""Where a prompt names its subject, in whatever script."""

import re
import unicodedata
from collections.abc import Iterator

from malmen.support.errors import InputError, quoted

__all__ = ["folded", "subject_end"]

# Scripts that put no space between words, or join particles to a name (Hangul).
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u30ff\u3130-\u318f"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9d"
    "\U00020000-\U0003ffff]"
)
_LOOKALIKES = str.maketrans("‘’ʼ`´“”„«»‐‑‒–—−", "'''''\"\"\"\"\"------")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff]")


def subject_end(subject: str, prompt: str, *, at: int | None = None) -> int:
    """Return the index of the character of a prompt behind its subject.

    The subject has to stand there as words of its own, but for scripts that put no space between
    words; whether letters are composed or not makes no difference.

    Args:
        subject: what the prompt is about.
        prompt: text that names it.
        at: where it begins, if it stands there several times; the first place unless given.

    Raises:
        InputError: it does not stand there; what nearly does is named.
    """
    for start, end in _places(subject, prompt):
        if (at is None or start == at) and _is_word(prompt, start, end):
            return end
    raise InputError(
        f"the subject {quoted(subject)} does not occur in {quoted(prompt)}"
        f"{_near(subject, prompt)}: correct the field 'subject', or leave the row out"
    )


def folded(text: str) -> str:
    """Return a text without what makes no other question of it: case, spacing, last marks."""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text.translate(_LOOKALIKES)))
    text = " ".join(text.casefold().split())
    return text.rstrip(" ?.!。؟।") or text


def _places(subject: str, prompt: str) -> Iterator[tuple[int, int]]:
    """Yield where a subject stands in a prompt, compared after composition of letters (NFC)."""
    found = list(re.finditer(f"(?={re.escape(subject)})", prompt))
    if found:
        yield from ((match.start(), match.start() + len(subject)) for match in found)
        return
    composed = unicodedata.normalize("NFC", subject)
    if composed not in unicodedata.normalize("NFC", prompt):
        return
    longest = len(unicodedata.normalize("NFD", subject))
    for start in range(len(prompt)):
        for end in range(start + len(composed), min(start + longest, len(prompt)) + 1):
            if unicodedata.normalize("NFC", prompt[start:end]) == composed:
                yield start, end


def _is_word(text: str, start: int, end: int) -> bool:
    """Tell whether a part of a text is no part of a longer word."""
    return not (_joined(text, start) or _joined(text, end))


def _joined(text: str, at: int) -> bool:
    """Tell whether the letters before and behind a place belong to one word."""
    if not 0 < at < len(text):
        return False
    before, behind = text[at - 1], text[at]
    if unicodedata.category(behind).startswith("M"):  # a mark of the letter before it
        return True
    before_is_mark = unicodedata.category(before).startswith("M")
    return (
        (before_is_mark or _is_letter(before))
        and _is_letter(behind)
        and not (_UNSPACED.match(before) or _UNSPACED.match(behind))
    )


def _is_letter(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def _near(subject: str, prompt: str) -> str:
    """Return what stands there in place of the subject, if it is nearly the same."""
    alike = _stripped(subject)
    words = [match.span() for match in re.finditer(r"\S+", prompt)]
    length = len(subject.split())
    for first in range(len(words)):
        last = min(first + length, len(words)) - 1
        part = prompt[words[first][0] : words[last][1]]
        if alike and alike in _stripped(part):
            return f", but {quoted(part)} does, which is near"
    return ""


def _stripped(text: str) -> str:
    """Return a text without accents, too."""
    letters = unicodedata.normalize("NFD", folded(text))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
