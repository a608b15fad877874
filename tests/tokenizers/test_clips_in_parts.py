"""Clips group by group, and frames in tiles: the whole, or close to it where that is all that can be said."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jielong.autoencoders.causal3d import Causal3d
from jielong.autoencoders.convolutional import Convolutional
from jielong.autoencoders.vit import ViT
from jielong.autoencoders.vocos import Vocos
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.media.kinds.audio import audio_medium
from jielong.media.kinds.image import image_medium
from jielong.quantizers.vector import Vector
from jielong.tokenizers import grid
from jielong.tokenizers.grid import Latency
from jielong.tokenizers.kl import KL
from jielong.tokenizers.tiling import Tiling, tiled
from jielong.tokenizers.vq import VQ

CAUSAL = Causal3d(channels=(8, 8, 12), patch=2)
FACTORISED = Causal3d(channels=(8, 8), blocks=(1, 1), strides=((2, 2),), patch=2, factorized=True, upsampling="nearest", norm="rms")
LOCAL = Causal3d(channels=(4, 8), blocks=(0, 1), strides=((2, 2),), patch=2, norm="rms")


def make(autoencoder: Any, kind: str = "kl", medium: Medium | None = None) -> Any:
    torch.manual_seed(0)
    codes = Vector(codebook_size=32, kmeans_iterations=0)
    settings: Any = KL(autoencoder=autoencoder, dim=4) if kind == "kl" else VQ(autoencoder=autoencoder, dim=4, quantizer=codes)
    tokenizer = settings.build(medium or Medium("video", 3, ALONG_FRAMES, (9, 8, 8), 6.25)).eval()
    for half in (tokenizer.encoder, tokenizer.decoder):
        for parameter in half.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return tokenizer


def clips(frames: int, side: int = 8) -> Tensor:
    return torch.rand(2, 3, frames, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("kind", ["vq", "kl"])
@pytest.mark.parametrize("autoencoder", [CAUSAL, FACTORISED], ids=["causal", "factorised"])
@pytest.mark.parametrize("sizes", [[1] * 13, [4, 4, 4, 1], [0, 6, 0, 7], [13]], ids=["ones", "groups", "any", "whole"])
def test_a_stream_is_the_whole(autoencoder: Causal3d, kind: str, sizes: list[int]) -> None:
    tokenizer, media, group = make(autoencoder, kind), clips(13), autoencoder.reduction[0]
    whole = tokenizer.encode(media)
    back, decoded, read, given = tokenizer.decode(whole), [], [], 0
    cells = whole.layout.positions // whole.layout.grid[0]
    with tokenizer.streaming(2) as stream:
        for number, part in enumerate(media.split(sizes, dim=2), 1):
            if number == len(sizes):
                stream.finish()
            tokens = tokenizer.encode(part)
            read.append(tokens.values)
            decoded.append(tokenizer.decode(tokens))
            given += part.shape[2]
            # a latent frame as soon as its last frame is in, and its frames at once
            latents = 1 + (given - 1) // group if given else 0
            assert sum(values.shape[1] for values in read) == latents * cells
            assert sum(frames.shape[2] for frames in decoded) == (1 + (latents - 1) * group if latents else 0)
    torch.testing.assert_close(torch.cat(read, dim=1), whole.values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(decoded, dim=2), back, atol=1e-5, rtol=1e-5)


def test_a_stream_that_ends_inside_a_group_says_so() -> None:
    tokenizer = make(CAUSAL)
    assert tokenizer.latency == Latency(4, 1, 6.25)
    with tokenizer.streaming(2) as stream:
        tokenizer.encode(clips(6))
        with pytest.raises(ValueError, match="reset here: the first frame of a clip stands alone"):
            stream.reset(1)
        stream.finish()
        with pytest.raises(ValueError, match=r"a clip of 7 frames does not divide.*such as 5 or 9"):
            tokenizer.encode(clips(1))


def test_a_long_clip_goes_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, media = make(CAUSAL), clips(41)
    with torch.no_grad():
        features = tokenizer.encoder(media)
        frames = tokenizer.decoder(features[:, :4])
        seen: dict[Any, list[int]] = {tokenizer.encoder: [], tokenizer.decoder: []}
        for half, longest in seen.items():
            half.layers[0].register_forward_pre_hook(lambda layer, given, longest=longest: longest.append(given[0].shape[2]))
        monkeypatch.setattr(grid, "PIECE", 1)
        monkeypatch.setattr(grid, "FRAMES", 1)
        torch.testing.assert_close(tokenizer.features(media), features, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokenizer.maps(features[:, :4].movedim(1, -1)), frames, atol=1e-5, rtol=1e-5)
    assert seen[tokenizer.encoder] == [12, 12, 12, 5]  # memory is that of as many frames as in training
    assert seen[tokenizer.decoder] == [3, 3, 3, 2]


def test_tiles_are_the_whole_away_from_their_seams() -> None:
    """Norms of pixels leave convolutions alone to look sideways: a place whose receptive field lies in one tile is exact."""
    medium = Medium("video", 3, ALONG_FRAMES, (3, 64, 64), 6.25)
    tokenizer, media = make(LOCAL, medium=medium), clips(3, 64)
    with torch.no_grad():
        features = tokenizer.features(media)
        frames = tokenizer.maps(features[:, :4].movedim(1, -1))
        tokenizer.enable_tiling(48, 0.25)
        assert tokenizer.tiling == Tiling((12, 12), (3, 3))
        in_tiles = tokenizer.features(media)
        drawn = tokenizer.maps(features[:, :4].movedim(1, -1))
    assert in_tiles.shape == features.shape
    assert drawn.shape == frames.shape
    # Tiles are latents 0 to 11 and 9 to 15, and no half sees further than four latents.
    for exact, tiles, sides in ((features, in_tiles, 1), (frames, drawn, 4)):
        error = (tiles - exact).abs().amax(dim=(0, 1, 2))
        inside = [slice(start * sides, stop * sides) for start, stop in ((0, 8), (13, 16))]
        assert max(float(error[rows, columns].max()) for rows in inside for columns in inside) < 1e-5
        assert float(error.max()) > 1e-4
    tokenizer.disable_tiling()
    assert torch.equal(tokenizer.encode(media).values, tokenizer.encode(media).values)
    tokenizer.enable_tiling(64)  # one tile: no seams
    torch.testing.assert_close(tokenizer.features(media).detach(), features, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"cannot be streamed in tiles: call disable_tiling\(\) first"):
        tokenizer.streaming()


def test_training_computes_whole_frames() -> None:
    tokenizer = make(CAUSAL)
    tokenizer.enable_tiling(4, 0.0)
    seen: list[tuple[int, ...]] = []
    tokenizer.encoder.register_forward_pre_hook(lambda half, given: seen.append(tuple(given[0].shape[3:])))
    tokenizer(clips(9))
    with torch.no_grad():
        tokenizer.encode(clips(9))
    assert seen == [(8, 8), *[(4, 4)] * 4]


@torch.no_grad()
def test_pictures_are_blended_as_in_diffusers() -> None:
    """A function of single positions is exact in tiles; of others, blends along an axis equal the public ones on the same tiles."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    public = AutoencoderKL(block_out_channels=(4, 8), norm_num_groups=2, sample_size=8, down_block_types=("DownEncoderBlock2D",) * 2,
                           up_block_types=("UpDecoderBlock2D",) * 2).eval()  # fmt: skip
    public.tile_latent_min_size, public.tile_sample_min_size, public.tile_overlap_factor = 4, 8, 0.25

    half = nn.Sequential(public.post_quant_conv, public.decoder)
    double, halved = (Fraction(2), Fraction(2)), (Fraction(1, 2), Fraction(1, 2))
    z = torch.randn(1, 4, 9, 3)  # one tile across: it blends the corners of four tiles differently
    torch.testing.assert_close(tiled(half, z, (4, 4), (1, 1), double), public.tiled_decode(z).sample, atol=1e-5, rtol=1e-5)
    x = torch.randn(1, 3, 6, 18)
    whole = nn.Sequential(public.encoder, public.quant_conv)
    torch.testing.assert_close(tiled(whole, x, (8, 8), (2, 2), halved), public._tiled_encode(x), atol=1e-5, rtol=1e-5)
    y = torch.randn(2, 3, 9, 11)
    one = (Fraction(1), Fraction(1))
    for tile, overlap in (((4, 4), (2, 2)), ((3, 5), (0, 1)), ((9, 11), (4, 4)), ((20, 20), (5, 5))):
        torch.testing.assert_close(tiled(lambda part: part * 2 + 1, y, tile, overlap, one), y * 2 + 1)


def test_pictures_are_tiled_too_and_what_cannot_be_is_said() -> None:
    pictures = image_medium(3, (32, 48))
    tokenizer = make(Convolutional(channels=(8, 16), patch=2), "vq", pictures)
    media = torch.rand(1, 3, 32, 48) * 2 - 1
    whole = tokenizer.decode(tokenizer.encode(media))
    tokenizer.enable_tiling((16, 24), 0.5)
    assert tokenizer.decode(tokenizer.encode(media)).shape == whole.shape
    for tile, overlap, why in ((18, 0.25, "no multiple of a token's 4"), (16, 0.6, "a share of 0 to 0.5")):
        with pytest.raises(ValueError, match=why):
            tokenizer.enable_tiling(tile, overlap)
    vit = make(ViT(patch=4, layers=1, width=16, heads=2), "vq", pictures)
    for fixed in (vit, make(Vocos(), "kl", audio_medium(1, 3200, 16_000))):
        with pytest.raises(ValueError, match="reads one size alone, or media without rows"):
            fixed.enable_tiling()
