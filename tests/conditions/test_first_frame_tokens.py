"""``first_frame: {into: tokens}``: what is drawn begins with the tokens of a picture, which a causal tokenizer has apart."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.backbones.none import NoBackbone
from jielong.backbones.transformer import Transformer
from jielong.conditions.base import BuildContext, Condition
from jielong.conditions.classes import Class
from jielong.conditions.composite import Composite
from jielong.conditions.frames import FirstFrame, LastFrame
from jielong.config.registry import parse_part
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.gaussian_mixture import GaussianMixture
from jielong.networks.denoiser import MLP
from jielong.orders.at_once import AtOnce
from jielong.orders.frames import Frames
from jielong.orders.masked import Masked
from jielong.tokenizers.base import TokenizerSettings

CLIPS = Medium("video", 2, ALONG_FRAMES, (5, 8, 8), 8.0)
LAYOUT = Layout((3, 2, 2), channels=2)


class Causal:
    """Cells of 4 x 4 pixels, and of two frames behind the first: a tokenizer whose first frame stands alone."""

    media, layout, first_frame_alone = CLIPS, LAYOUT, True

    def parameters(self) -> Any:
        return iter(())

    def encode(self, media: Tensor) -> Tokens:
        cells = torch.nn.functional.avg_pool2d(media[:, :, 0], 4).flatten(2).mT
        assert media.shape[2] == 1
        return Tokens(cells, Layout((1, 2, 2), channels=2))


def condition(dropped: float = 0.1, **settings: Any) -> Condition:
    tokenizer: Any = settings.pop("tokenizer", Causal())
    context = BuildContext(classes=["cat", "dog"], tokenizer=tokenizer)
    parts = (Class(width=8, cfg_dropout=dropped), FirstFrame(width=8, into="tokens"))
    return Composite(parts=parts, width=8, **settings).build(context)


def built(order: Any = None) -> Generator:
    torch.manual_seed(0)
    head = FlowMatching(network=MLP(layers=1, width=16), steps=2).build(16, LAYOUT)
    backbone = Transformer(layers=1, width=16, heads=1).build(LAYOUT, 8)
    model = Generator(LAYOUT, (order or Frames(inside=Masked(choose="random", steps=2), given=1)).build(), backbone, head, condition())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def pictures(count: int) -> list[Tensor]:
    return list(torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1)


@pytest.mark.parametrize("order", [None, Masked(choose="random", steps=3)])
def test_a_clip_begins_with_the_tokens_of_its_picture(order: Any) -> None:
    model, given = built(order), pictures(3)
    values = [{"class": name, "first_frame": frame} for name, frame in zip(["cat", "dog", "cat"], given, strict=True)]
    drawn = model.generate(values, seed=2, guidance=2.0).values
    first = Causal().encode(torch.stack(given)[:, :, None]).values
    torch.testing.assert_close(drawn[:, :4], first)
    known = torch.arange(12) < 4
    start = Tokens(torch.cat([first, torch.zeros(3, 8, 2)], 1), LAYOUT)
    assert torch.equal(model.generate(values, start=start, known=known, seed=2, guidance=2.0).values, drawn)
    torch.testing.assert_close(model.generate(values, seed=2, guidance=2.0, batch=2).values, drawn, rtol=1e-5, atol=1e-5)
    assert model.condition is not None
    loss = model.loss(Tokens(drawn.clone(), LAYOUT), model.condition.prepare(values))
    loss.backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert all(name.endswith("null") for name in unused), "nothing is dropped here"


def test_items_begin_alike() -> None:
    model, (frame,) = built(Masked(choose="random", steps=3)), pictures(1)
    assert model.generate([{"class": "cat"}]).values.shape == (1, 12, 2)
    with pytest.raises(ValueError, match="some items begin with a 'first_frame' and others do not"):
        model.generate([{"class": "cat"}, {"class": "cat", "first_frame": frame}])
    with pytest.raises(ValueError, match="is not given the first frame of tokens"):
        built().generate([{"class": "cat"}])


def test_what_has_no_first_frame_apart_is_refused() -> None:
    plain: Any = SimpleNamespace(layout=LAYOUT, media=CLIPS)
    with pytest.raises(ValueError, match="has no tokens of that frame alone: take into: positions or states"):
        condition(tokenizer=plain)
    causal: Any = Causal()
    with pytest.raises(ValueError, match="this is another frame"):
        LastFrame(into="tokens").build(BuildContext(tokenizer=causal))
    with pytest.raises(ValueError, match="would not see what is kept"):
        Generator(LAYOUT, AtOnce().build(), NoBackbone(width=16).build(LAYOUT, 8), GaussianMixture().build(16, LAYOUT), condition())


def test_tokens_of_a_picture_are_those_of_its_clip() -> None:
    torch.manual_seed(0)
    autoencoder = {"causal_3d": {"channels": [8, 8], "blocks": [0, 0], "strides": [[2, 2]], "norm": "rms"}}
    part = parse_part("tokenizer", {"kl": {"autoencoder": autoencoder, "dim": 4}})
    assert isinstance(part, TokenizerSettings)
    tokenizer = part.build(Medium("video", 2, ALONG_FRAMES, (5, 16, 16), 8.0)).eval()
    built = FirstFrame(into="tokens").build(BuildContext(tokenizer=tokenizer))
    clips = torch.rand(2, 2, 5, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = built.start(list(clips[:, :, 0]))
    assert found is not None
    assert found[0].layout.grid == (1, *tokenizer.layout.grid[1:])
    first = found[0].layout.positions
    torch.testing.assert_close(found[0].values, tokenizer.encode(clips).values[:, :first], rtol=1e-5, atol=1e-5)
    assert {name for name, _ in built.named_parameters()} == {"null", "input.weight", "input.bias"}, "the tokenizer's weights are its own"


def test_guidance_needs_what_is_left_out_at_times() -> None:
    values = [{"class": "cat", "first_frame": pictures(1)[0]}]
    condition().check_guided()
    assert condition().compared(values).states.shape == (1, 2, 8)
    always = condition(dropped=0)
    with pytest.raises(ValueError, match=r"set condition\.composite\.parts\.class\.cfg_dropout above 0"):
        always.check_guided()
    with pytest.raises(ValueError, match="never dropped"):
        always.compared(values)
