from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jielong.config import registry as config


@pytest.fixture(autouse=True)
def only_the_projects_own_parts() -> Iterator[None]:
    """A part that another test or an example declares must not be seen here, nor one declared here elsewhere."""
    everything = {family: dict(config.parts_of(family)) for family in config.FAMILIES}
    for family, parts in everything.items():
        _replace(family, {name: part for name, part in parts.items() if part.__module__.startswith("jielong.")})
    yield
    for family, parts in everything.items():
        _replace(family, parts)


def _replace(family: str, parts: dict[str, type[config.Part]]) -> None:
    config._parts[family].clear()
    config._parts[family].update(parts)


@pytest.fixture
def load_benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A script of ``benchmarks/`` as a module, by its name."""

    def load(name: str) -> Any:
        path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look themselves up
        spec.loader.exec_module(module)
        return module

    return load
