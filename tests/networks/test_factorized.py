"""Factorised attention: frames apart against masks, layer by layer; causal over time; in joint networks against the plain products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.backbones.transformer import Transformer as TransformerSettings
from jielong.config.sampling import Lazy
from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.denoiser import DenoiserSizes
from jielong.networks.dit import DiT
from jielong.networks.eligibility import fused_inference
from jielong.networks.factorized import Clip, along_of, same
from jielong.networks.mmdit import MMDiT
from jielong.networks.transformer import Transformer

CLIP = Layout((3, 2, 2))
COORDS, FRAME = CLIP.coordinates(), CLIP.coordinates()[:, 0]
BLOCKS = {"frames": FRAME, "raster": torch.arange(12), "masked": torch.zeros(12, dtype=torch.long)}


def conditioning(batch: int = 2) -> Conditioning:
    generator = torch.Generator().manual_seed(2)
    states = torch.randn(batch, 3, 8, generator=generator)
    mask = torch.ones(batch, 3, dtype=torch.bool)
    mask[0, 2] = False
    return Conditioning(states, mask, states.mean(1))


def network(path: Any = "cross", layers: int = 3) -> Transformer:
    torch.manual_seed(0)
    built = TransformerSettings(layers=layers, width=24, heads=2, condition=path, factorized=True).build(CLIP, 8)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return built.eval()


def inputs(blocks: Tensor, x: Tensor | None = None, **more: Any) -> BackboneInputs:
    x = torch.randn(2, 12, 24, generator=torch.Generator().manual_seed(1)) if x is None else x
    return BackboneInputs(x, COORDS, blocks, conditioning(), **more)


def test_a_clip_is_split_and_joined() -> None:
    clip, x = Clip.of(COORDS), torch.randn(2, 3, 12, 5)
    assert clip == Clip(3, 4)
    for along, size in (("places", 4), ("time", 3)):
        parts = clip.split(x, along)  # type: ignore[arg-type]
        assert parts.shape == (2 * 12 // size, 3, size, 5)
        assert torch.equal(clip.joined(parts, along), x)  # type: ignore[arg-type]
    assert torch.equal(clip.split(x, "places")[1], x[0, :, 4:8])
    assert torch.equal(clip.split(x, "time")[1], x[0, :, 1::4])
    assert Clip.of(COORDS[:11]) is None
    assert Clip.of(COORDS + torch.tensor([5, 0, 0])) == clip


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("path", ["cross", "adaln"])
@pytest.mark.parametrize("window", [None, 2])
def test_frames_apart_are_masks(monkeypatch: pytest.MonkeyPatch, blocks: str, path: Any, window: int | None) -> None:
    model = network(path)
    fast = model(inputs(BLOCKS[blocks], window=window))
    monkeypatch.setattr("jielong.networks.transformer.factors", lambda *_: None)
    torch.testing.assert_close(fast, model(inputs(BLOCKS[blocks], window=window)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_what_a_position_reads(blocks: str, layers: int) -> None:
    """One layer reads the own frame, as far as blocks allow; with the second what each place of the frames before has read."""
    model, x = network(layers=layers), torch.randn(2, 12, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
    hidden, order = model(inputs(BLOCKS[blocks], x)), BLOCKS[blocks]
    allowed = order[None, :] <= order[:, None]
    first, second = (allowed & same(COORDS, COORDS, along_of(layer)) for layer in range(2))
    reads = first if layers == 1 else (second.float() @ first.float()) > 0
    for position in range(12):
        (gradient,) = torch.autograd.grad(hidden[0, position].sum(), x, retain_graph=True)
        assert torch.equal(gradient[0].abs().sum(-1) > 0, reads[position])
    if blocks != "raster" and layers == 2:
        assert torch.equal(reads, allowed), "two layers read all that one of full attention does"


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("blocks", ["frames", "raster"])
@pytest.mark.parametrize("path", ["cross", "adaln"])
@pytest.mark.parametrize("window", [None, 2])
def test_cached_is_naive(blocks: str, path: Any, fused: bool, window: int | None) -> None:
    model, given, order = network(path), inputs(BLOCKS[blocks]), BLOCKS[blocks]
    expected, parts = model(inputs(order, window=window)), list[Tensor]()
    with fused_inference(fused):
        cache = model.new_cache(2, 12)
        for block in range(int(order.max()) + 1):
            at = order == block
            step = BackboneInputs(given.embeddings[:, at], COORDS[at], order[at], None if block else conditioning(), window=window)
            model(step, cache, commit=False)
            parts.append(model(BackboneInputs(step.embeddings, step.coords, step.blocks, None, window=window), cache))
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-5, atol=1e-5)


def test_what_it_does_not_serve_is_refused() -> None:
    with pytest.raises(ValueError, match="no positions stand before them"):
        TransformerSettings(width=24, heads=2, factorized=True).build(CLIP, 8)
    with pytest.raises(ValueError, match="these have 2 axes"):
        TransformerSettings(width=24, heads=2, factorized=True).build(Layout((4, 4)), None)
    with pytest.raises(ValueError, match="these have 1 axes"):
        DiT(width=24, heads=2, factorized=True).build(inputs=2, outputs=2, hidden=8, axes=1)
    with pytest.raises(ValueError, match="lazy steps attend to all positions"):
        network().new_lazy_cache(Lazy(), 1, 12)


# --- joint networks ---------------------------------------------------------------------------------------------------------------------


def masked_reference(q: Tensor, k: Tensor, v: Tensor, clip: Clip, along: Any, real: Tensor | None = None, exact: bool = False) -> Tensor:
    """As :func:`jielong.networks.joint.attend_along`, by one product of all positions and a mask."""
    length, asked = k.shape[2] - 12, q.shape[2] - 12
    allowed = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    allowed[asked:, length:] = same(COORDS, COORDS, along)
    everything = allowed.expand(len(q), 1, -1, -1)
    if real is not None:
        everything = everything & real[:, None, None]
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    return scores.masked_fill(~everything, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize("settings", [DiT, MMDiT])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_joint_networks_are_masks_too(monkeypatch: pytest.MonkeyPatch, settings: Any, layers: int) -> None:
    torch.manual_seed(0)
    model = settings(layers=layers, width=24, heads=2, factorized=True).network(DenoiserSizes(2, 2, 8, 1, 3, 8)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    hidden, x, times = torch.randn(2, 12, 8), torch.randn(2, 12, 2), torch.rand(2, 1)

    def predicted() -> Tensor:
        with torch.no_grad():
            return model.predict(x, times, model.prepare(hidden, COORDS, None, conditioning()))

    fast = predicted()
    for module in ("dit", "mmdit"):
        monkeypatch.setattr(f"jielong.networks.{module}.attend_along", masked_reference)
    torch.testing.assert_close(fast, predicted(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="over whole frames"):
        model.prepare(hidden[:, :11], COORDS[:11], None, conditioning())


def test_one_layer_of_a_joint_network_stays_in_a_frame() -> None:
    torch.manual_seed(0)
    model = DiT(layers=1, width=24, heads=2, factorized=True).network(DenoiserSizes(2, 2, 8, 1, 3)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(1, 12, 2, requires_grad=True)
    out = model.predict(x, torch.rand(1, 1), model.prepare(torch.zeros(1, 12, 8), COORDS))
    for position in range(12):
        (gradient,) = torch.autograd.grad(out[0, position].sum(), x, retain_graph=True)
        assert torch.equal(gradient[0].abs().sum(-1) > 0, FRAME[position] == FRAME)
