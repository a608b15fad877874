from __future__ import annotations

from collections.abc import Iterator

import pytest

from jielong import config


@pytest.fixture(autouse=True)
def parts_registered_by_a_test_end_with_it() -> Iterator[None]:
    """A part that a test (or an example that it imports) declares must not be seen by the tests after it."""
    for family in config.FAMILIES:
        config.parts_of(family)  # the project's own are all there before
    before = {family: dict(parts) for family, parts in config._parts.items()}
    yield
    for family, parts in before.items():
        config._parts[family].clear()
        config._parts[family].update(parts)
