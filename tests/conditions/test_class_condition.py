from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class, ClassCondition
from jielong.data.sets import Batch
from jielong.media.kinds.image import image_medium

NAMES = ["cat", "dog", "7", "fire engine"]


def make(drop: float = 0.1) -> ClassCondition:
    return Class(width=6, cfg_dropout=drop).build(BuildContext(NAMES))


def test_names_and_numbers_mean_the_same() -> None:
    condition = make()
    expected = torch.tensor([0, 3, 1])
    for values in (["cat", "fire engine", "dog"], [0, 3, 1], ["0", "3", "dog"], torch.tensor([0, 3, 1])):
        assert torch.equal(condition.prepare(values), expected)
    assert condition.prepare(["7"]).tolist() == [2], "a name comes before a number"


def test_what_is_no_class_is_refused_with_the_nearest() -> None:
    condition = make()
    with pytest.raises(ValueError, match=r"no class 'fire engin'; did you mean 'fire engine'\?"):
        condition.prepare(["fire engin"])
    with pytest.raises(ValueError, match="no class 'zzz'; classes are cat, dog, 7, fire engine"):
        condition.prepare(["zzz"])
    for number in [4, "4", -1]:
        with pytest.raises(ValueError, match="classes run from 0 to 3"):
            condition.prepare([number])
    with pytest.raises(ValueError, match="needs a class for every item"):
        Class().from_batch(Batch(torch.zeros(2, 0), ["a", "b"], None, ["x", "y"]), image_medium(3, (4, 4)))


def test_a_state_and_the_pooled_vector_are_the_row_of_the_class() -> None:
    condition = make()
    given = condition(condition.prepare(["dog", "cat"]))
    assert torch.equal(given.states, condition.table.weight[[1, 0]][:, None])
    assert torch.equal(given.pooled, condition.table.weight[[1, 0]])
    assert given.mask.shape == (2, 1)
    assert given.mask.all()


def test_dropped_conditions_are_the_null_and_teach_it() -> None:
    condition = make()
    given = condition(condition.prepare([1, 2, 3]), torch.tensor([True, False, True]))
    nothing = condition.unconditional(3)
    for row, expected in enumerate([nothing, condition(condition.prepare([1, 2, 3])), nothing]):
        assert torch.equal(given.states[row], expected.states[row])
        assert torch.equal(given.pooled[row], expected.pooled[row])
        assert torch.equal(given.mask[row], expected.mask[row])
    (given.states.sum() + given.pooled.sum()).backward()
    assert (condition.null.grad == 4).all()
    assert (condition.table.weight.grad.sum(1) == torch.tensor([0.0, 0, 12, 0])).all()


def test_a_set_without_classes_and_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a data set with classes"):
        Class().build(BuildContext([]))
    for wrong in [{"cfg_dropout": 1.0}, {"cfg_dropout": -0.1}, {"width": 0}]:
        with pytest.raises(ValidationError):
            Class(**wrong)


def test_describe_names_the_classes() -> None:
    assert make().describe() == {"classes": NAMES}


@pytest.mark.parametrize("value", ["1000", 3, "dog", "-1"])
def test_classes_without_names_are_told_by_their_range(value: int | str) -> None:
    condition = Class(width=4).build(BuildContext([str(number) for number in range(3)]))
    assert condition.prepare(["2", 0]).tolist() == [2, 0]
    with pytest.raises(ValueError, match="numbers 0 to 2, without names" if isinstance(value, str) else "classes run from 0 to 2"):
        condition.prepare([value])
