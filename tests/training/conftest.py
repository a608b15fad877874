"""Tokenizers that recipes need, trained once for all tests of a session."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which tokenizers are trained as recipes need them."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture
def stages(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is that of trained tokenizers."""
    monkeypatch.chdir(trained)
