"""Verdicts from intervals and bounds."""

from __future__ import annotations

from typing import Literal

import pytest

from jielong.apps.lab.statistics import Estimate
from jielong.apps.lab.verdict import Check, Verdict, conclude


def check(low: float, high: float, side: Literal["above", "below"], bound: float = 0.0) -> Check:
    return Check("a figure keeps its bound", Estimate((low + high) / 2, low, high, "", 9, "given"), side, bound)


@pytest.mark.parametrize(
    ("low", "high", "side", "wanted"),
    [
        (0.1, 0.2, "above", Verdict.HOLDS),
        (-0.2, -0.1, "above", Verdict.FAILS),
        (-0.1, 0.2, "above", Verdict.UNKNOWN),
        (-0.2, -0.1, "below", Verdict.HOLDS),
        (0.1, 0.2, "below", Verdict.FAILS),
        (-0.1, 0.2, "below", Verdict.UNKNOWN),
        (0.0, 0.0, "above", Verdict.FAILS),  # no difference is no gain
        (float("-inf"), float("inf"), "above", Verdict.UNKNOWN),
    ],
)
def test_an_interval_and_a_bound(low: float, high: float, side: Literal["above", "below"], wanted: Verdict) -> None:
    assert check(low, high, side).verdict is wanted


def test_a_claim_holds_if_all_checks_hold() -> None:
    good, bad, open_ = check(1, 2, "above"), check(-2, -1, "above"), check(-1, 1, "above")
    assert conclude([good, good]) is Verdict.HOLDS
    assert conclude([good, open_]) is Verdict.UNKNOWN
    assert conclude([good, open_, bad]) is Verdict.FAILS
    with pytest.raises(ValueError, match="one check"):
        conclude([])


def test_a_check_as_data() -> None:
    data = check(1, 3, "above", 0.5).to_json()
    assert data["verdict"] == "holds"
    assert (data["value"], data["must_be"], data["bound"], data["n"]) == (2, "above", 0.5, 9)
