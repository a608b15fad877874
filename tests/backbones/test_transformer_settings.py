from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from jielong.backbones.transformer import Transformer
from jielong.config.registry import parse_part
from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs


def test_settings_reach_the_network() -> None:
    part = parse_part("backbone", {"transformer": {"layers": 2, "width": 32, "heads": 2, "hidden": 40, "qk_norm": True, "norm": "layer"}})
    assert isinstance(part, Transformer)
    net = part.build(Layout((2, 3, 4)), condition_width=12)
    assert (net.layers, net.width, net.heads, net.axes, net.condition) == (2, 32, 2, 3, "prefix")
    assert net.blocks[0].feed_forward.down.in_features == 40
    assert net.norm.kind == "layer"
    assert net.blocks[0].attention.q_norm is not None


def test_without_a_condition_there_is_no_condition_path() -> None:
    net = Transformer(layers=1, width=32, heads=2, condition="cross").build(Layout((3,)), condition_width=None)
    assert net.condition is None
    assert net(BackboneInputs(torch.randn(1, 3, 32), torch.arange(3)[:, None], torch.arange(3))).shape == (1, 3, 32)


@pytest.mark.parametrize("wrong", [{"width": 30}, {"layers": 0}, {"norm": "batch"}, {"dropout": 1.0}, {"depth": 3}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Transformer(**wrong)
