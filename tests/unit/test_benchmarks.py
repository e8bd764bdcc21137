"""The arithmetic of the benchmarks: what a figure of theirs says is what was measured."""

from __future__ import annotations

import json

import pytest

from benchmarks.report import Case, Samples, Target
from benchmarks.timing import measure, percentile, times_ms


def test_percentiles_lie_in_the_sample() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert percentile(ordered, 0.0) == 1
    assert percentile(ordered, 0.5) == 51
    assert percentile(ordered, 0.99) == 100
    assert percentile([7.0], 0.99) == 7


def test_every_thread_is_measured_and_failures_are_counted_not_timed() -> None:
    calls: list[str] = []

    def fails() -> None:
        calls.append("fails")
        raise ValueError

    figures = measure([lambda: calls.append("works"), fails], 0.05, 0.0)
    assert figures["failures"] == calls.count("fails") > 0
    assert figures["ops"] * 0.05 == pytest.approx(calls.count("works"))
    assert 0 <= figures["p50"] <= figures["p99"] <= figures["worst"]
    assert figures["cpu"] > 0


def test_nothing_but_failures_is_no_figure() -> None:
    with pytest.raises(RuntimeError, match="operations failed"):
        measure([lambda: 1 // 0], 0.01, 0.0)


def test_an_average_is_over_all_calls() -> None:
    calls: list[int] = []
    assert times_ms(lambda: calls.append(1), 7) >= 0
    assert len(calls) == 7


def test_a_ratio_is_the_median_of_paired_rounds() -> None:
    # A machine that slows to a third between rounds changes both sides and no ratio.
    case = Case("f", "c", "/s", (90.0, 30.0, 60.0), "direct", (100.0, 33.0, 60.0))
    assert case.value == 60
    assert case.ratio == pytest.approx(30 / 33)
    assert case.added == -3


def test_a_round_whose_baseline_came_to_nothing_compares_with_nothing() -> None:
    one = Case(
        "f", "c", "/s", (90.0, 30.0), "direct", (0.0, 33.0), Target("ratio", 0.5, at_least=True)
    )
    assert one.ratio == pytest.approx(30 / 33)
    none = Case("f", "c", "/s", (90.0,), "direct", (0.0,), Target("ratio", 0.5, at_least=True))
    assert none.ratio is None
    assert none.is_met is False


def test_targets_hold_on_their_bound_and_not_beyond() -> None:
    at_least = Target("ratio", 0.85, at_least=True)
    assert at_least.holds(0.85)
    assert not at_least.holds(0.849)
    at_most = Target("value", 150)
    assert at_most.holds(150)
    assert not at_most.holds(150.1)


@pytest.mark.parametrize(("of", "met"), [("value", False), ("ratio", True), ("added", True)])
def test_a_target_judges_what_it_names(of: str, met: bool) -> None:
    case = Case("f", "c", "ms", (20.0,), "small", (18.0,), Target(of, 2))
    assert case.is_met is met
    assert case.line()["met"] == ("yes" if met else "NO")
    assert json.loads(json.dumps(case.plain()))["met"] is met


def test_a_target_on_a_ratio_needs_a_baseline() -> None:
    with pytest.raises(ValueError, match="without a baseline"):
        _ = Case("f", "c", "ms", (1.0,), target=Target("ratio", 2)).is_met


def test_a_case_without_target_or_baseline_claims_nothing() -> None:
    case = Case("f", "c", "ms", (3.0, 1.0, 2.0))
    assert (case.value, case.ratio, case.added, case.is_met) == (2, None, None, None)
    assert case.line()["from-to"] == "1-3"


def test_the_best_baseline_is_the_one_with_the_highest_median() -> None:
    samples = Samples()
    for two, sixteen in ((10.0, 50.0), (11.0, 1.0), (12.0, 2.0)):
        samples.add("2", two)
        samples.add("16", sixteen)
    assert samples.best({"two": "2", "sixteen": "16"}) == "two"
    assert samples.of("16") == (50, 1, 2)
