from malmen.results.comparison import MEASURES
from malmen.results.metrics import HEADLINE, METRICS, PRE_EDIT_METRICS
from malmen.results.per_fact import COLUMNS


def test_columns_and_measures_follow_from_the_declarations() -> None:
    assert list(METRICS) == [metric.name for metric in METRICS.values()]
    headings = [metric.heading for metric in METRICS.values()]
    assert len(set(headings)) == len(headings)
    assert set(HEADLINE) < set(METRICS) < set(MEASURES)
    for name, metric in METRICS.items():
        assert COLUMNS[name] == ("bool" if metric.scorer == "exact" else "float64")
        assert (f"pre_{name}" in COLUMNS) == (metric.scorer != "agreement")
    for column, name in PRE_EDIT_METRICS.items():
        assert COLUMNS[column] == COLUMNS[name]
