"""Recipes are read by libyaml where it is there, and by PyYAML's own reader, whose values, lines and errors are the rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jielong.config import yaml_text
from jielong.config.recipe import built_in
from jielong.config.registry import RecipeError

PIECES = (
    *"ab1-?:,{}[]\n '\"#|>~!%@`=*&\t\ufeff\u2028",
    *("1e-3", "- ", ": ", "? ", "\n  ", " #", "&x ", "*x", "\n- ", "\n a: ", "null", "yes", "0x1f", "1_0", "1:30", "2001-01-01"),
    *(".5", ".inf", "<<: ", "--- ", "...", "http://a?b=c", "key: ", "\\n", "é"),
)


def outcome(read: Callable[[str, str], Any], text: str) -> tuple[str, str]:
    """What a text is read as, or the words that refuse it."""
    try:
        return "read", repr(read(text, "a text"))
    except RecipeError as error:
        return "refused", str(error)


def by_python_alone(text: str, origin: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_text, "_FastLoader", yaml_text._Loader)
        return yaml_text._read(text, origin)


@settings(max_examples=400)
@example("a: 1\n\tb: 2")
@example("\ufeffa: 1")
@example("a: {b: 1\n  c: 2}")
@example("x: &y {a: 1e-3}\nz: {<<: *y, b: '1e-3'}")
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_both_readers_agree(text: str) -> None:
    kind, found = outcome(yaml_text._read, text)
    other, expected = outcome(by_python_alone, text)
    assert kind == other or other == "refused"  # libyaml reads some texts that are not quite YAML, such as ``|#``
    assert kind != other or found == expected


@pytest.mark.parametrize("name", built_in())
def test_both_read_every_recipe_alike(name: str) -> None:
    assert outcome(yaml_text._read, built_in()[name]) == outcome(by_python_alone, built_in()[name])


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")
def test_libyaml_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "_Loader", None)
    assert yaml_text.read_value("{a: [1e-3]}", "a text") == {"a": [0.001]}
