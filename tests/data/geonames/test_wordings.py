"""Wordings: several of every kind, each with the places that are filled in."""

import pytest

from malmen.data.geonames.wordings import WORDINGS


def test_there_are_several_wordings_of_every_relation():
    for questions, statements, claims in WORDINGS.values():
        assert len(set(questions)) >= 4
        assert len(set(statements)) >= 3
        assert all(question.endswith("?") for question in questions)
        assert not any(statement.endswith((" ", "?", ".", ":")) for statement in statements)
        assert len(set(claims)) >= 4
        assert all(claim.endswith(".") and claim.count("{value}") == 1 for claim in claims)


@pytest.mark.parametrize("wordings", sum(WORDINGS.values(), ()))
def test_every_wording_names_its_subject_once(wordings):
    assert all(wording.count("{subject}") == 1 for wording in wordings)
