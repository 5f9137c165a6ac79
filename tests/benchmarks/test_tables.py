"""Test of figures as lines of text."""

from __future__ import annotations

from benchmarks.tables import shown


def test_readings_become_a_median_and_a_range_and_figures_of_one_thing_share_a_line() -> None:
    figures = {"start": {"GetInfo": [3.0, 1.0, 2.0]}, "at rest": {"bridge": {"rss": 6.5, "cpu": 0}}}

    assert shown("cold", figures).splitlines() == [
        "cold | start | GetInfo: 2 [1-3]",
        "cold | at rest | bridge: rss 6.5, cpu 0",
    ]
