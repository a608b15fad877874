from __future__ import annotations

from collections.abc import Iterator

import pytest

from jielong.config import registry as config
from jielong.media.kinds import base as media_kinds
from jielong.media.kinds.base import kinds


@pytest.fixture(autouse=True)
def only_the_projects_own_parts() -> Iterator[None]:
    """A part that another test or an example declares must not be seen here, nor one declared here elsewhere."""
    everything = {family: dict(config.parts_of(family)) for family in config.FAMILIES}
    for family, parts in everything.items():
        _replace(family, {name: part for name, part in parts.items() if part.__module__.startswith("jielong.")})
    media = dict(kinds())
    yield
    media_kinds._KINDS.clear()
    media_kinds._KINDS.update({name: kind for name, kind in media.items() if type(kind).__module__.startswith("jielong.")})
    for family, parts in everything.items():
        _replace(family, parts)


def _replace(family: str, parts: dict[str, type[config.Part]]) -> None:
    config._parts[family].clear()
    config._parts[family].update(parts)
