"""Fused code must not ignore wrapped layers: every network equals itself with the change merged into plain weights, cached or not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from jielong.backbones.mar import Mar
from jielong.backbones.pixelcnn import PixelCNN
from jielong.backbones.pixelrnn import PixelRNN
from jielong.backbones.transformer import Transformer
from jielong.backbones.vpn import VPN
from jielong.backbones.wavenet import WaveNet
from jielong.core.tokens import Layout
from jielong.networks.backbone import AnyBackbone, BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.eligibility import fused_inference, is_exactly
from jielong.networks.masked_convolution import HorizontalConvolution, VerticalConvolution
from jielong.networks.replay import ReplayCache
from jielong.networks.seanet import SEANetEncoder, SEANetShape, TransformerShape
from jielong.networks.streaming import in_chunks
from jielong.networks.time_layer import fold
from jielong.networks.vocos import VocosEncoder, VocosShape

WIDTH, STATES, BATCH = 8, 6, 2
GRID, LINE, CLIP = Layout((3, 4), vocabulary=5), Layout((12,), vocabulary=5), Layout((2, 2, 3), vocabulary=5)
SIZES = {"layers": 2, "width": WIDTH, "heads": 2}
BACKBONES: dict[str, Callable[[], AnyBackbone]] = {
    "transformer": lambda: Transformer(**SIZES).build(LINE, None),
    "transformer, prefix": lambda: Transformer(**SIZES).build(LINE, STATES),
    "transformer, cross": lambda: Transformer(**SIZES, condition="cross", qk_norm=True).build(LINE, STATES),
    "transformer, adaln": lambda: Transformer(**SIZES, condition="adaln", norm="layer", bias=True).build(LINE, STATES),
    "mar": lambda: Mar(encoder_layers=1, decoder_layers=1, width=WIDTH, heads=2, buffer=2, bias=False).build(LINE, STATES),
    "pixelcnn": lambda: PixelCNN(layers=2, width=WIDTH, first_kernel=3).build(GRID, STATES),
    "pixelrnn, row": lambda: PixelRNN(kind="row", layers=1, hidden=6, width=WIDTH, kernel=3).build(GRID, STATES),
    "pixelrnn, diagonal": lambda: PixelRNN(kind="diagonal", layers=2, hidden=6, width=WIDTH, kernel=3).build(GRID, STATES),
    "vpn": lambda: VPN(encoder_layers=1, decoder_layers=2, width=WIDTH, first_kernel=3).build(CLIP, STATES),
    "wavenet": lambda: WaveNet(stacks=2, layers=2, width=WIDTH).build(LINE, STATES),
}
CODECS: dict[str, Callable[[], nn.Module]] = {
    "mimi": lambda: SEANetEncoder(mimi(), 1, WIDTH),
    "vocos": lambda: VocosEncoder(VocosShape(24, 6, WIDTH, 2 * WIDTH, 1, 3, True, 2), 1, WIDTH),
}


def mimi() -> SEANetShape:
    return SEANetShape(
        channels=4,
        ratios=(2, 2),
        kernel=3,
        last_kernel=(3, 3),
        residual_kernel=3,
        residual_layers=1,
        dilation_base=2,
        compress=2,
        convolved_shortcut=False,
        lstm=0,
        activation="elu",
        causal=True,
        norm="none",
        padding="constant",
        bounded=False,
        transformer=TransformerShape(layers=1, width=WIDTH, heads=2, window=5, hidden=16, scale=1.0),
        downsample=2,
        channelwise_upsampling=False,
        whole_frames=False,
    )


def grown(network: nn.Module) -> nn.Module:
    """With all weights away from their start, so that every layer contributes."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.eval().requires_grad_(False)


def inputs_of(network: AnyBackbone, seed: int = 0) -> BackboneInputs:
    generator, n = torch.Generator().manual_seed(seed), 12
    states = torch.randn(BATCH, 3, STATES, generator=generator)
    conditioning = Conditioning(states, torch.ones(BATCH, 3, dtype=torch.bool), states.mean(1)) if network.conditioned else None
    masked = type(network).__name__ == "MaskedAutoencoder"
    known = torch.arange(n).expand(BATCH, -1) < 5 if masked else None
    blocks = torch.zeros(n, dtype=torch.long) if masked else torch.arange(n)
    axes = 1 if masked or "Transformer" in type(network).__name__ else 2
    coords = torch.arange(n)[:, None].expand(n, axes)
    return BackboneInputs(torch.randn(BATCH, n, WIDTH, generator=generator), coords, blocks, conditioning, known)


@torch.no_grad()
def cached(network: AnyBackbone, inputs: BackboneInputs) -> Tensor:
    """The first four positions at once, then one by one; a masked block in two calls."""
    n = inputs.embeddings.shape[1]
    cache = network.new_cache(BATCH, n, 3)
    if inputs.known is not None:
        network(inputs, cache)
        return network(BackboneInputs(inputs.embeddings, inputs.coords, inputs.blocks, None, inputs.known), cache)
    parts = [slice(0, 4), *(slice(at, at + 1) for at in range(4, n))]
    return torch.cat(
        [
            network(
                BackboneInputs(
                    inputs.embeddings[:, part],
                    inputs.coords[part],
                    inputs.blocks[part],
                    inputs.conditioning if part.start == 0 else None,
                ),
                cache,
            )
            for part in parts
        ],
        dim=1,
    )


# Each change returns, by the name of a layer, the factor or the matrix that turns its plain weights into what it now computes.


def targets(network: nn.Module) -> dict[str, nn.Module]:
    kinds = (nn.Linear, nn.Conv2d)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def lora(network: nn.Module) -> dict[str, Tensor]:
    from peft import LoraConfig, inject_adapter_in_model

    # Masked convolutions pad in their own forward pass, and masked maps may not see a full matrix: LoRA is for the other layers.
    names = [name for name, module in targets(network).items() if type(module) in (nn.Linear, nn.Conv2d)]
    torch.manual_seed(2)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=names, init_lora_weights=False, lora_alpha=8), network)
    network.eval()
    return {name: network.get_submodule(name).get_delta_weight("default") for name in names}


def subclass(network: nn.Module) -> dict[str, float]:
    class Quantised(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, 1.5 * self.weight, None if self.bias is None else 1.5 * self.bias)

    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 1.5 * type(self).plain.forward(self, x)

    for module in targets(network).values():
        if type(module) is nn.Linear:
            module.__class__ = Quantised
        elif isinstance(module, nn.Linear):  # a masked map
            module.__class__ = type("Sub", (type(module),), {"forward": lambda self, x, plain=type(module): 1.5 * plain.forward(self, x)})
        else:
            module.__class__ = type("Sub", (Scaled, type(module)), {"plain": type(module)})
    return dict.fromkeys(targets(network), 1.5)


def hook(network: nn.Module) -> dict[str, float]:
    for module in targets(network).values():
        module.register_forward_hook(lambda module, inputs, output: 1.25 * output)
    return dict.fromkeys(targets(network), 1.25)


class Factor(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 0.7 * weight


def parametrized(network: nn.Module) -> dict[str, float]:
    changes = {}
    for name, module in targets(network).items():
        if not isinstance(module, VerticalConvolution | HorizontalConvolution):
            for key in [key for key, _ in module.named_parameters(recurse=False)]:
                parametrize.register_parametrization(module, key, Factor())
            changes[name] = 0.7
    return changes


CHANGES = {"lora": lora, "subclass": subclass, "hook": hook, "parametrized": parametrized}


def merged(network: nn.Module, changes: dict[str, Tensor] | dict[str, float]) -> nn.Module:
    """The plain network that computes the same."""
    for name, change in changes.items():
        layer = network.get_submodule(name)
        if isinstance(change, Tensor):
            layer.weight += change.view_as(layer.weight)
        else:
            for parameter in layer.parameters(recurse=False):
                parameter *= change
    return network


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_a_backbone_does_not_ignore_what_wraps_its_layers(name: str, change: str) -> None:
    plain = grown(BACKBONES[name]())
    network = copy.deepcopy(plain)
    expected = merged(copy.deepcopy(plain), CHANGES[change](network))
    inputs = inputs_of(plain)
    reference = expected(inputs)
    assert (reference - plain(inputs)).abs().max() > 0.05, "the change matters"
    torch.testing.assert_close(network(inputs), reference, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(cached(network, inputs), reference, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(cached(expected, inputs), reference, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_a_folded_codec_does_not_ignore_what_wraps_its_layers(name: str, change: str) -> None:
    plain = grown(CODECS[name]())
    network = copy.deepcopy(plain)
    expected = merged(copy.deepcopy(plain), CHANGES[change](network))
    fold(network)
    sound = torch.randn(BATCH, 1, 48, generator=torch.Generator().manual_seed(3))
    reference = expected(sound)
    assert (reference - plain(sound)).abs().max() > 0.01, "the change matters"
    torch.testing.assert_close(network(sound), reference, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(in_chunks(network, sound, 7), reference, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name.startswith(("pixel", "wave"))])
@torch.no_grad()
def test_replayed_positions_equal_those_of_a_fused_cache(name: str) -> None:
    network = grown(BACKBONES[name]())
    inputs = inputs_of(network)
    assert not isinstance(network.new_cache(BATCH, 12), ReplayCache)
    fused = cached(network, inputs)
    with fused_inference(False):
        assert isinstance(network.new_cache(BATCH, 12), ReplayCache)
        torch.testing.assert_close(cached(network, inputs), fused, rtol=1e-4, atol=2e-5)
        cache = network.new_cache(BATCH, 12)
        first = BackboneInputs(inputs.embeddings[:, :4], inputs.coords[:4], inputs.blocks[:4], inputs.conditioning)
        network(first, cache)
        rest = BackboneInputs(inputs.embeddings[1:, 4:], inputs.coords[4:], inputs.blocks[4:])
        torch.testing.assert_close(network(rest, cache.rows(slice(1, 2))), fused[1:, 4:], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name.startswith("transformer")])
@torch.no_grad()
def test_plain_layers_serve_low_precision_and_uncommitted_calls(name: str) -> None:
    network = grown(BACKBONES[name]())
    inputs = inputs_of(network)
    reference = network(inputs)
    first = BackboneInputs(inputs.embeddings[:, :8], inputs.coords[:8], inputs.blocks[:8], inputs.conditioning)
    rest = BackboneInputs(inputs.embeddings[:, 8:], inputs.coords[8:], inputs.blocks[8:])
    with fused_inference(False):
        cache = network.new_cache(BATCH, 12, 3)
        network(first, cache, commit=False)
        first = BackboneInputs(first.embeddings, first.coords, first.blocks)
        torch.testing.assert_close(network(first, cache), reference[:, :8], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(network(rest, cache, commit=False), reference[:, 8:], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(network(rest, cache), reference[:, 8:], rtol=1e-4, atol=2e-5)
        low = network.new_cache(BATCH, 12, 3, dtype=torch.bfloat16)
        hidden = network(inputs, low)
    assert low.memory.dtype == torch.bfloat16
    assert (hidden - reference).norm() < 0.05 * reference.norm()


def test_what_is_exactly_a_kind() -> None:
    assert is_exactly(nn.Linear(2, 2), nn.Linear)
    assert not is_exactly(nn.Linear(2, 2), nn.Conv2d)
    patched = nn.Linear(2, 2)
    patched.forward = lambda x: x  # type: ignore[method-assign]
    before, backward = nn.Linear(2, 2), nn.Linear(2, 2)
    before.register_forward_pre_hook(lambda module, inputs: None)
    backward.register_full_backward_hook(lambda module, inputs, outputs: None)
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    whole = nn.Linear(2, 2)
    whole.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    assert not any(is_exactly(layer, nn.Linear) for layer in (patched, before, backward, normed, whole))
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, outputs: None)
    assert not is_exactly(nn.Linear(2, 2), nn.Linear)
    handle.remove()
    assert is_exactly(nn.Linear(2, 2), nn.Linear)
