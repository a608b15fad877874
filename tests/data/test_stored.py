"""Files of tensors carry a checksum: whatever is changed in one is found out, and what does not fit is refused with the file's name."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from jielong.conditions.cache import cached as cached_features
from jielong.core.tokens import Layout, Tokens
from jielong.data.stored import DamagedError, not_finite, read_tensors, write_tensors
from jielong.training import token_cache

LAYOUT = Layout((3,), 2, 300)
SOUND = Layout((3,), 2, 300, axes=("time",))


def tokens(layout: Layout = LAYOUT, lengths: list[int] | None = None) -> Tokens:
    values = torch.arange(12).view(2, 3, 2) * 20
    return Tokens(values, layout, None if lengths is None else torch.tensor(lengths))


def test_tensors_and_words_survive_and_other_programs_read_them(tmp_path: Path) -> None:
    path, tensors = tmp_path / "a.safetensors", {"a": torch.randn(3, 4).T, "b": torch.arange(5), "empty": torch.zeros(0, 2)}
    write_tensors(path, tensors, {"word": "näme\n"})
    found, words = read_tensors(path)
    assert words == {"word": "näme\n"}
    for each in (found, load_file(path)):
        assert each.keys() == tensors.keys()
        assert all(torch.equal(each[name], tensors[name]) for name in tensors)


def test_every_flipped_bit_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    token_cache.write(path, tokens(SOUND, [3, 2]), {"tokenizer": "a", "data": "b"})
    whole, reasons = path.read_bytes(), list[str]()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        try:
            found = token_cache.read(path)
        except ValueError as error:
            reasons.append(str(error))
        else:  # a blank after the header became another blank
            assert whole[place] == ord(" ")
            assert torch.equal(found.values, tokens().values)
    assert all(str(path) in reason for reason in reasons)
    assert len(reasons) > len(whole) - 8


def test_a_file_without_a_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file({"values": tokens().values}, path, {"layout": json.dumps(LAYOUT.to_json())})
    with pytest.raises(ValueError, match=r"t\.safetensors is not a usable token file \(it has no checksum.*jielong tokenize"):
        token_cache.read(path)


@pytest.mark.parametrize(
    ("values", "layout", "lengths", "reason"),
    [
        (torch.tensor([[[5], [300]], [[0], [0]]]), Layout((2,), 1, 300), None, "item 0 has the code 300, but codes are 0 to 299"),
        (torch.tensor([[[5], [0]], [[0], [-1]]]), Layout((2,), 1, 300), None, "item 1 has the code -1"),
        (torch.tensor([[[5.0], [0.0]]]), Layout((2,), 1, 300), None, "instead of codes"),
        (torch.tensor([[[5], [0]]]), Layout((2,), 1), None, "instead of numbers"),
        (torch.tensor([[[0.0], [1.0]], [[0.0], [math.nan]]]), Layout((2,), 1), None, "item 1 holds NaN or infinity"),
        (torch.zeros(2, 3, 1).long(), Layout((2,), 1, 300), None, r"must be \(batch, 2, 1\), not \(2, 3, 1\)"),
        (torch.zeros(0, 2, 1).long(), Layout((2,), 1, 300), None, r"holds torch.int64 \(0, 2, 1\)"),
        (torch.zeros(2, 2, 1).long(), Layout((2,), 1, 300), [1, 3], "item 1 cannot have 3 tokens"),
        (torch.zeros(2, 2, 1).long(), Layout((2,), 1, 300), [1], r"lengths must be long \(2,\)"),
        (torch.zeros(2, 4, 1).long(), Layout((2, 2), 1, 300), [1, 1], "lengths are along time alone"),
    ],
)
def test_what_does_not_fit_the_layout_is_refused(
    tmp_path: Path, values: Tensor, layout: Layout, lengths: list[int] | None, reason: str
) -> None:
    path = tmp_path / "t.safetensors"
    more = {} if lengths is None else {"lengths": torch.tensor(lengths)}
    write_tensors(path, {"values": values, **more}, {"layout": json.dumps(layout.to_json())})
    with pytest.raises(ValueError, match=rf"t\.safetensors is not a usable token file \(.*{reason}"):
        token_cache.read(path)


@pytest.mark.parametrize(
    "words",
    [{}, {"layout": "3"}, {"layout": "{}"}, {"layout": "[["}, {"replacements": "[1]"}, {"replacements": '{"x": 1}'}],
)
def test_words_that_mean_nothing_are_refused(tmp_path: Path, words: dict[str, str]) -> None:
    path, layout = tmp_path / "t.safetensors", {"layout": json.dumps(LAYOUT.to_json())} if "replacements" in words else {}
    write_tensors(path, {"values": tokens().values}, words | layout)
    with pytest.raises(ValueError, match=r"t\.safetensors is not a usable token file"):
        token_cache.read(path)


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be written to .*t\.safetensors: item 0 holds NaN"):
        token_cache.write(tmp_path / "t.safetensors", Tokens(torch.full((1, 2, 1), math.inf), Layout((2,), 1)), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_row_that_is_not_finite(dtype: torch.dtype, bad: float) -> None:
    values = torch.full((5, 3), torch.finfo(dtype).max, dtype=dtype)
    assert not_finite(values) is None
    values[2, 1] = values[4, 0] = bad
    assert not_finite(values) == 2
    assert not_finite(torch.arange(4)) is None
    assert not_finite(torch.zeros(0, 3)) is None


def constant(value: float = 1.0) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"voices": torch.full((2, 3), value)}


def test_features_are_computed_again_if_damaged_with_a_line(tmp_path: Path) -> None:
    shapes = {"voices": (2, 3)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached_features("voices", "key", shapes, constant(), tmp_path)
        assert cached_features("voices", "key", shapes, lambda: pytest.fail("computed again"), tmp_path)["voices"].sum() == 6
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damage in (whole[:-1] + b"\0\0", whole[:40], b"", whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:]):
        path.write_bytes(damage)
        with pytest.warns(UserWarning, match=r"\.safetensors cannot be used \(.*\) and is computed again") as warned:
            assert cached_features("voices", "key", shapes, constant(), tmp_path)["voices"].sum() == 6
        assert len(warned) == 1
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"voices": torch.ones(3, 3)}, r"voices has the shape \(3, 3\) instead of \(2, any\)"),
        ({"voices": torch.ones(2)}, r"the shape \(2,\)"),
        ({"others": torch.ones(2, 3)}, "holds others instead of voices"),
        ({"voices": torch.tensor([[1.0], [math.nan]])}, "row 1 of voices holds NaN"),
    ],
)
def test_features_of_another_shape_are_computed_again(tmp_path: Path, tensors: dict[str, Tensor], reason: str) -> None:
    cached_features("voices", "key", {"voices": (2, None)}, constant(), tmp_path)
    (path,) = tmp_path.iterdir()
    write_tensors(path, tensors)
    with pytest.warns(UserWarning, match=reason):
        assert cached_features("voices", "key", {"voices": (2, None)}, constant(2.0), tmp_path)["voices"].sum() == 12


def test_features_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the voices computed for the cache cannot be used: row 0 of voices holds NaN") as error:
        cached_features("voices", "key", {"voices": (2, 3)}, constant(math.nan), tmp_path)
    assert not isinstance(error.value, DamagedError)
    assert not list(tmp_path.iterdir())
