from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_models import point_at
from local_hub import TOKEN, LocalHub, serving

from jielong.system import hub


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub of this machine that the client of this process asks, with a cache of its own and the token of a writer."""
    with serving() as running:
        point_at(running.url, tmp_path / "cache", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running
    hub.fetch.cache_clear()
