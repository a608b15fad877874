from __future__ import annotations

import pytest
import torch

from jielong.core.tokens import Layout
from jielong.generation.inpainting import kept
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster

RASTER, MASKED = Raster().build(), Masked().build()


def test_halves_of_a_grid_and_of_its_colours() -> None:
    layout = Layout((3, 2), vocabulary=4)
    assert kept(layout, MASKED, "upper").tolist() == [True, True, True, True, False, False]
    assert kept(layout, MASKED, "lower").tolist() == [False, False, False, False, True, True]
    assert kept(layout, MASKED, "left").tolist() == [True, False] * 3
    assert kept(layout, MASKED, "right").tolist() == [False, True] * 3
    colours = kept(Layout((3, 2, 3), vocabulary=4, axes=("rows", "columns", "channels")), RASTER, "left")
    assert torch.equal(colours, kept(layout, RASTER, "left").repeat_interleave(3))


def test_halves_name_their_axis() -> None:
    layout = Layout((4, 2, 2), vocabulary=4)
    at = layout.coordinates()
    assert torch.equal(kept(layout, MASKED, "first"), at[:, 0] < 2)
    assert torch.equal(kept(layout, MASKED, "last"), at[:, 0] >= 2)
    assert torch.equal(kept(layout, MASKED, "upper"), at[:, 1] == 0)
    assert torch.equal(kept(layout, MASKED, "right"), at[:, 2] == 1)
    assert kept(Layout((4,), vocabulary=4), MASKED, "last").tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match=r"a grid \(time\) of \(4,\), which has no left half: keep first or last"):
        kept(Layout((4,), vocabulary=4), MASKED, "left")


def test_what_cannot_be_kept_is_refused() -> None:
    for side in ("lower", "right"):
        with pytest.raises(ValueError, match=f"before it sees the {side} half: keep upper or left"):
            kept(Layout((4, 4), vocabulary=4), RASTER, side)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a grid \(latents\) of \(32,\), which has no upper half: no half"):
        kept(Layout((32,), vocabulary=4, axes=("latents",)), MASKED, "upper")
    with pytest.raises(ValueError, match=r"scales .* has no upper half"):
        kept(Layout((2, 2), vocabulary=4, scales=((1, 1), (2, 2))), RASTER, "upper")
