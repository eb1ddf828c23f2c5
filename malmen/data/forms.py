"""CounterFact in the fields of zsRE: prompts to be completed with a fact that is not so.

Two forms are known: the nested one of ROME and MEMIT, and the flat one of EasyEdit.
"""

from malmen.data.raw_rows import RawRow

__all__ = ["in_zsre_form"]


def in_zsre_form(raw: RawRow) -> RawRow:
    """Return the fields of a zsRE row, and any other row as it is.

    The answer edited in is the false one, whatever else a row may hold. Of the prompts about other
    subjects, whose answer is the true one, the first is the unrelated question.

    Args:
        raw: of any data set.

    Returns:
        A raw row with ``subject``, ``src``, ``rephrase``, ``ans``, ``loc`` and ``loc_ans``, of the
        nested form with ``relation`` too.

    Raises:
        InputError: a field of CounterFact is missing or malformed; it is named as it stands there.
    """
    if raw.has("requested_rewrite"):
        return _from_nested(raw)
    if raw.has("target_new"):
        return _from_flat(raw)
    return raw


def _from_flat(raw: RawRow) -> RawRow:
    fields = {
        "subject": raw.optional_text("subject"),
        "src": raw.text("prompt"),
        "rephrase": list(raw.texts("rephrase_prompt")),
        "ans": raw.text("target_new"),
        "loc": raw.text("locality_prompt"),
        "loc_ans": raw.text("locality_ground_truth"),
    }
    return RawRow(raw.where, fields)


def _from_nested(raw: RawRow) -> RawRow:
    rewrite = raw.inner("requested_rewrite")
    subject = rewrite.text("subject")
    fields = {
        "subject": subject,
        "src": rewrite.text("prompt").replace("{}", subject),
        "rephrase": list(raw.texts("paraphrase_prompts")),
        "ans": rewrite.inner("target_new").text("str"),
        "loc": raw.texts("neighborhood_prompts")[0],
        "loc_ans": rewrite.inner("target_true").text("str"),
        "relation": rewrite.optional_text("relation_id"),
    }
    return RawRow(raw.where, fields)
