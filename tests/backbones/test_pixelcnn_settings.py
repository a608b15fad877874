from __future__ import annotations

import pytest
from pydantic import ValidationError

from jielong.backbones.pixelcnn import PixelCNN
from jielong.config.registry import parse_part
from jielong.core.tokens import Layout
from jielong.networks.pixel_grid import PixelGrid


def test_settings_reach_the_network() -> None:
    part = parse_part("backbone", {"pixelcnn": {"layers": 2, "width": 8, "features": 12, "first_kernel": 5, "kernel": 5, "dropout": 0.25}})
    assert isinstance(part, PixelCNN)
    net = part.build(Layout((6, 7, 3), vocabulary=4, axes=("rows", "columns", "channels")), condition_width=9)
    assert (net.layers, net.width, net.features, net.grid) == (2, 8, 12, PixelGrid(6, 7, 3))
    assert (net.first_vertical.weight.shape[2:], net.blocks[0].vertical.weight.shape[2:]) == ((2, 5), (3, 5))
    assert net.blocks[0].dropout.p == 0.25
    assert net.blocks[0].condition is not None
    assert part.build(Layout((6, 7), vocabulary=4), condition_width=None).blocks[0].condition is None


@pytest.mark.parametrize("wrong", [{"first_kernel": 4}, {"kernel": 2}, {"layers": 0}, {"dropout": 1.0}, {"depth": 3}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PixelCNN(**wrong)  # type: ignore[arg-type]
