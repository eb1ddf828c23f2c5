"""Hypothesis strategies for rows."""

from hypothesis import strategies as st

from malmen.data.rows import LABELS, FeverRow, ZsreRow, overwritten

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)
wordings = st.lists(texts, min_size=1, max_size=3).map(tuple)
labels = st.sampled_from(LABELS)
unrelated_questions = texts.filter(lambda text: not text.startswith("nq question:"))

zsre_rows = st.builds(
    ZsreRow,
    subject=st.none() | texts,
    src=texts,
    rephrase=wordings,
    ans=texts,
    loc=unrelated_questions,
    loc_ans=texts,
    relation=st.none() | texts,
)
fever_rows = st.builds(
    FeverRow,
    prompt=texts,
    equiv_prompt=wordings,
    unrel_prompt=texts,
    alt=labels,
    unrel_ans=labels,
    subject=st.none() | texts,
    relation=st.none() | texts,
)


def files_of(rows, heading):
    """Draw what one file holds: at least one row, no two with the same question or claim.

    No unrelated prompt is edited.
    """
    drawn = st.lists(rows, min_size=1, max_size=6, unique_by=lambda row: getattr(row, heading))
    return drawn.filter(lambda rows: not overwritten(rows))


zsre_files = files_of(zsre_rows, "src")
fever_files = files_of(fever_rows, "prompt")
