from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from jielong.networks.convolutional import ConvDecoder, ConvEncoder, ResidualBlock, SpatialAttention


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("channels", "patch"), [((8,), 1), ((8, 16), 2), ((4, 8, 16), 1), ((2,), 4)])
@pytest.mark.parametrize("attention", [False, True])
def test_encoder_divides_the_picture_and_decoder_gives_it_back(channels: tuple[int, ...], patch: int, attention: bool) -> None:
    factor = patch * 2 ** (len(channels) - 1)
    blocks = [1] * len(channels)
    features = ConvEncoder(3, channels, blocks, 5, patch, attention)(torch.randn(2, 3, 8, 16))
    assert features.shape == (2, 5, 8 // factor, 16 // factor)
    assert ConvDecoder(5, channels, blocks, 3, patch, attention)(features).shape == (2, 3, 8, 16)


def test_channels_last_gives_the_same_numbers_and_gradients() -> None:
    plain = nn.Sequential(ConvEncoder(3, (8, 16), (1, 1), 4, 2, True), ConvDecoder(4, (8, 16), (1, 1), 3, 2, True))
    fast = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 16, 16)
    a, b = plain(x), fast(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    a.square().sum().backward()
    b.square().sum().backward()
    for p, q in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3)


def test_a_residual_block_with_a_silent_last_convolution_is_its_skip() -> None:
    x = torch.randn(2, 8, 4, 4)
    for outputs in (8, 12):
        block = ResidualBlock(8, outputs)
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
        assert torch.equal(block(x), block.skip(x))
    assert isinstance(ResidualBlock(8, 8).skip, nn.Identity)


def test_attention_is_the_definition_and_knows_no_places() -> None:
    layer = SpatialAttention(8)
    x = torch.randn(2, 8, 3, 5)
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).chunk(3, dim=1)  # (B, C, HW) each
    weights = (q.transpose(1, 2) @ k / 8**0.5).softmax(-1)
    expected = x + layer.out((v @ weights.transpose(1, 2)).unflatten(2, (3, 5)))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    order = torch.randperm(15)
    torch.testing.assert_close(layer(x.flatten(2)[..., order].unflatten(2, (3, 5))), layer(x).flatten(2)[..., order].unflatten(2, (3, 5)))


def test_a_token_sees_its_neighbourhood_and_attention_everything() -> None:
    """The first feature's gradient reaches the picture as far as the convolutions do."""
    for attention in (False, True):
        encoder = ConvEncoder(1, (8,), (1,), 2, 4, attention).eval()
        for module in encoder.modules():
            if isinstance(module, nn.GroupNorm):
                module.forward = lambda x: x  # type: ignore[method-assign]  # its statistics couple all positions
        x = torch.randn(1, 1, 64, 4, requires_grad=True)
        encoder(x)[0, :, 0].sum().backward()
        reached = x.grad.abs().sum((0, 1, 3)) > 0  # two 3x3 convolutions over patches of 4: three patches down
        assert reached[:12].all()
        assert bool(reached[12:].any()) == attention


def test_the_last_layer_is_in_front_of_the_picture() -> None:
    decoder = ConvDecoder(4, (8,), (1,), 3, 2, False)
    features = torch.randn(1, 4, 2, 2)
    before = decoder(features)
    decoder.last_layer.data.mul_(2)
    decoder.out.bias.data.mul_(2)
    torch.testing.assert_close(decoder(features), 2 * before)
