"""CounterFact in the fields of zsRE: prompts to be completed with a fact that is not so.

Two forms are known: the nested one of ROME and MEMIT, and the flat one of EasyEdit.
"""

from malmen.data.records import Record

__all__ = ["in_zsre_form"]


def in_zsre_form(record: Record) -> Record:
    """Return the fields of a zsRE row, and any other record as it is.

    The answer edited in is the false one, whatever else a row may hold. Of the prompts about other
    subjects, whose answer is the true one, the first is the unrelated question.

    Args:
        record: of any data set.

    Returns:
        A record with ``subject``, ``src``, ``rephrase``, ``ans``, ``loc`` and ``loc_ans``, of the
        nested form with ``relation`` too.

    Raises:
        InputError: a field of CounterFact is missing or malformed; it is named as it stands there.
    """
    if record.has("requested_rewrite"):
        return _from_nested(record)
    if record.has("target_new"):
        return _from_flat(record)
    return record


def _from_flat(record: Record) -> Record:
    fields = {
        "subject": record.optional_text("subject"),
        "src": record.text("prompt"),
        "rephrase": list(record.texts("rephrase_prompt")),
        "ans": record.text("target_new"),
        "loc": record.text("locality_prompt"),
        "loc_ans": record.text("locality_ground_truth"),
    }
    return Record(record.where, fields)


def _from_nested(record: Record) -> Record:
    rewrite = record.inner("requested_rewrite")
    subject = rewrite.text("subject")
    fields = {
        "subject": subject,
        "src": rewrite.text("prompt").replace("{}", subject),
        "rephrase": list(record.texts("paraphrase_prompts")),
        "ans": rewrite.inner("target_new").text("str"),
        "loc": record.texts("neighborhood_prompts")[0],
        "loc_ans": rewrite.inner("target_true").text("str"),
        "relation": rewrite.optional_text("relation_id"),
    }
    return Record(record.where, fields)
