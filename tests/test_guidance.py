from __future__ import annotations

import pytest
from pydantic import ValidationError

from jielong.config.guidance import Guidance

SHARES = [0.0, 0.1, 0.25, 0.5, 0.74, 0.75, 0.99]


def test_constant_is_the_scale_everywhere() -> None:
    assert {Guidance(scale=3.0).at(share) for share in SHARES} == {3.0}


def test_linear_grows_from_one_to_the_scale() -> None:
    guidance = Guidance(scale=5.0, kind="linear")
    assert [guidance.at(share) for share in SHARES] == [1 + 4 * share for share in SHARES]


def test_linear_may_count_the_tokens_known_after_the_step() -> None:
    guidance = Guidance(scale=5.0, kind="linear", counted="after")
    assert [guidance.at(share, after=share + 0.01) for share in SHARES] == [1 + 4 * (share + 0.01) for share in SHARES]
    assert Guidance(scale=5.0, kind="linear").at(0.25, after=0.5) == 2.0


def test_ramp_grows_by_steps_whatever_is_known() -> None:
    """VAR's cfg 1.5 at scale k of 10 is 1 + 1.5 k / 9 in this convention."""
    guidance = Guidance(scale=2.5, kind="ramp")
    for share in SHARES:
        assert [guidance.at(share, k / 9) for k in range(10)] == pytest.approx([1 + 1.5 * k / 9 for k in range(10)])
    assert all(guidance.needed_from(share) for share in SHARES)


def test_interval_is_half_open_and_one_outside() -> None:
    guidance = Guidance(scale=4.0, kind="interval", start=0.25, stop=0.75)
    assert [guidance.at(share) for share in SHARES] == [1, 1, 4, 4, 4, 1, 1]


def test_the_unconditional_half_is_needed_exactly_while_a_later_step_may_use_it() -> None:
    for guidance in [
        Guidance(scale=1.0),
        Guidance(scale=2.0),
        Guidance(scale=0.0),
        Guidance(scale=2.0, kind="linear"),
        Guidance(scale=2.0, kind="interval", start=0.25, stop=0.75),
        Guidance(scale=1.0, kind="interval", start=0.25, stop=0.75),
    ]:
        for place, share in enumerate(SHARES):
            used_later = any(guidance.at(later) != 1.0 for later in SHARES[place:])
            assert guidance.needed_from(share) == used_later, (guidance, share)


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"must begin before it ends, but start is 0\.5 and stop 0\.5"):
        Guidance(scale=2.0, kind="interval", start=0.5, stop=0.5)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Guidance(scale=-1.0)
    with pytest.raises(ValidationError, match=r"counted: after is of the kind linear, and the kind is constant"):
        Guidance(scale=2.0, counted="after")
    with pytest.raises(ValidationError, match=r"constant.*linear.*interval"):
        Guidance(kind="cosine")
