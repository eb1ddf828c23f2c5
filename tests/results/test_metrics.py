from malmen.lm.generation import LONGEST, STOPS
from malmen.results.comparison import MEASURES
from malmen.results.metrics import (
    FURTHER,
    HEADLINE,
    METRICS,
    PRE_EDIT_METRICS,
    PROTOCOLS,
    SCORERS,
)
from malmen.results.per_fact import COLUMNS

KNOWN = METRICS | FURTHER


def test_columns_and_measures_follow_from_the_declarations() -> None:
    assert list(KNOWN) == [metric.name for metric in KNOWN.values()]
    for names in ("title", "heading"):
        assert len({getattr(metric, names) for metric in KNOWN.values()}) == len(KNOWN)
    assert set(HEADLINE) < set(METRICS) < set(MEASURES)
    for name in METRICS:
        assert COLUMNS[name] == ("bool" if name.endswith("_exact") else "float64")
        assert (f"pre_{name}" in COLUMNS) == ("consistency" not in name)
    for column, name in PRE_EDIT_METRICS.items():
        assert COLUMNS.get(column) == COLUMNS.get(name)


def test_every_metric_says_how_it_is_measured() -> None:
    for name, metric in KNOWN.items():
        assert metric.meta["result_key"] == name
        definition = f"{PROTOCOLS[metric.protocol]}; {SCORERS[metric.scorer]}"
        assert metric.meta["definition"] == definition


def test_metrics_are_comparable_if_protocol_and_scorer_agree() -> None:
    group = {name: metric.meta["comparable_group"] for name, metric in KNOWN.items()}
    assert group["es"] == group["gs"] == group["ls"] == group["ps"]
    assert len({group[f"es{kind}"] for kind in ("", "_exact", "_generated", "_f1")}) == 4
    assert group["ls"] != group["ls_consistency"] != group["ls_consistency_generated"]


def test_the_protocol_is_that_of_the_writer() -> None:
    written = PROTOCOLS[KNOWN["es_generated"].protocol]
    assert f"at most {LONGEST} tokens" in written
    assert STOPS == ("\n", ".")
    assert "a newline or a full stop" in written
