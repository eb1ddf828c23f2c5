"""Comparison of short texts, as for SQuAD (Rajpurkar et al., 2016)."""

import re
import string
from collections import Counter

__all__ = ["exact_match", "normalise", "token_f1"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Return a text in small letters, without punctuation, articles and surplus white space."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(text: str, truth: str) -> float:
    """Return 1 if the texts are equal once normalised, else 0."""
    return float(normalise(text) == normalise(truth))


def token_f1(text: str, truth: str) -> float:
    """Return the harmonic mean of precision and recall of a text's words.

    A word counts as often as both texts have it. Of two empty texts it is 1, of one it is 0.
    """
    found, wanted = normalise(text).split(), normalise(truth).split()
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted))
