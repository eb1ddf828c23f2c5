"""The editors that have a card, by what tests ask for."""

from malmen.experiment.cards import cards

PRINTED_NAMES = {card.name: card.title for card in cards()}
TITLES = tuple(card.title for card in cards() if not card.oracle)
