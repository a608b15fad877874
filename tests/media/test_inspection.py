"""What inspectors print."""

from __future__ import annotations

import pytest

from jielong.media.kinds.audio import AudioInspector
from jielong.media.kinds.base import kind_of


@pytest.mark.parametrize(("seconds", "hours"), [(26.5, "0.007361"), (3600 * 12_345.6, "12,346")])
def test_numbers_are_rounded(seconds: float, hours: str) -> None:
    kind = kind_of("audio")
    inspector = kind.inspector(kind.medium(kind.settings(), 1), kind.settings())
    assert isinstance(inspector, AudioInspector)
    inspector.seconds = [seconds]
    assert dict(inspector.rows())["hours"] == hours
