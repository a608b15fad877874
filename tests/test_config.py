from __future__ import annotations

import pytest
from pydantic import ValidationError

from jielong.config import registry as config
from jielong.config.registry import FAMILIES, Config, Part, RecipeError, nearest, parse_part, parts_of


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> type[Part]:
    """A part that exists for one test."""
    monkeypatch.setattr(config, "_parts", {family: dict(parts_of(family)) for family in FAMILIES})

    class Dice(Part, family="head", name="dice"):
        sides: int = 6

    return Dice


def test_declaring_a_part_registers_it_and_no_other_family_sees_it(parts: type[Part]) -> None:
    assert parts_of("head")["dice"] is parts
    assert all("dice" not in parts_of(family) for family in FAMILIES if family != "head")


def test_every_family_has_parts_and_each_knows_its_name() -> None:
    for family in FAMILIES:
        known = parts_of(family)
        assert known, family
        assert list(known) == sorted(known)
        assert all((part.family, part.name) == (family, name) for name, part in known.items())


def test_a_part_is_read_from_a_name_or_from_a_name_with_settings(parts: type[Part]) -> None:
    assert parse_part("head", "dice") == parts()
    assert parse_part("head", {"dice": {}}) == parts()
    assert parse_part("head", {"dice": {"sides": 20}}) == parts(sides=20)
    assert parse_part("head", parts(sides=4)) == parts(sides=4)


def test_a_part_is_written_with_its_name_and_read_back_equal(parts: type[Part]) -> None:
    written = parts(sides=20).model_dump()
    assert written == {"dice": {"sides": 20}}
    assert parse_part("head", written) == parts(sides=20)


def test_what_is_not_a_part_is_refused_with_the_nearest_choice(parts: type[Part]) -> None:
    with pytest.raises(RecipeError, match=r"no head called 'dise'; did you mean 'dice'\?"):
        parse_part("head", "dise")
    with pytest.raises(RecipeError, match=r"no head called 'xyzzy'; choose one of .*dice, .*softmax"):
        parse_part("head", {"xyzzy": {}})
    for value in [3, ["dice"], {}, {"dice": {}, "softmax": {}}, None]:
        with pytest.raises(RecipeError, match="head must be one name with its settings"):
            parse_part("head", value)
    with pytest.raises(RecipeError, match=r"dice\.side: Extra inputs"):
        parse_part("head", {"dice": {"side": 20}})


def test_a_part_of_another_family_is_not_taken(parts: type[Part]) -> None:
    with pytest.raises(RecipeError, match="order must be one name"):
        parse_part("order", parts())


def test_settings_are_frozen_and_refuse_unknown_keys() -> None:
    class Plain(Config):
        number: int = 1

    with pytest.raises(ValidationError, match="frozen"):
        Plain().number = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Plain(numbr=2)  # type: ignore[call-arg]


def test_hints_name_the_nearest_or_all() -> None:
    assert nearest("lerning_rate", ["learning_rate", "batch"]) == "did you mean 'learning_rate'?"
    assert nearest("zzz", {"b": 1, "a": 2}) == "choose one of a, b"
    many = [f"recipe-{index}" for index in range(100)] * 2
    assert nearest("1", many).startswith("the most similar of 100 names are ")
    assert len(nearest("1", many)) < 140
