"""Warnings of the command line."""

from __future__ import annotations

import warnings

import pytest

from jielong.apps.commands.errors import plain_warnings


def test_equal_warnings_of_a_command_are_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with plain_warnings():
            warnings.simplefilter("always")
            for text in ("pics: 2 not used", "another", "pics: 2 not used"):
                warnings.warn(text, stacklevel=1)
        assert capsys.readouterr().err.splitlines() == ["warning: pics: 2 not used", "warning: another"]
