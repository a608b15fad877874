"""Autoencoders of clips: shapes, what is refused, causality, and training; a picture is a clip of one frame."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from jielong.autoencoders.base import AutoencoderSettings
from jielong.autoencoders.causal3d import Causal3d
from jielong.autoencoders.convolutional3d import Convolutional3d
from jielong.config.registry import parse_part, parts_of
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.core.tokens import Layout
from jielong.quantizers.finite_scalar import FiniteScalar
from jielong.quantizers.lookup_free import LookupFree
from jielong.quantizers.residual import Residual
from jielong.quantizers.vector import Vector
from jielong.tokenizers.kl import KL
from jielong.tokenizers.vq import VQ

CAUSAL: dict[str, Causal3d] = {
    "causal": Causal3d(channels=(8, 8, 12), patch=2),
    "at full resolution": Causal3d(channels=(4, 8), blocks=(0, 1), patch=1, strides=((4, 4),), beginning="constant"),
    "factorised": Causal3d(channels=(8, 8, 12), patch=2, factorized=True, upsampling="nearest", norm="rms"),
}
PLAIN: dict[str, Convolutional3d] = {
    "plain": Convolutional3d(strides=(4, 4, 4), width=8, blocks=1),
    "of uneven strides": Convolutional3d(strides=(1, 2, 8), width=8, strided=(4, 4, 8), blocks=1, heads=0, norm="batch"),
}
SMALL: dict[str, AutoencoderSettings] = {**CAUSAL, **PLAIN}
EVERY = pytest.mark.parametrize("autoencoder", SMALL.values(), ids=SMALL)
CAUSAL_ONES = pytest.mark.parametrize("autoencoder", CAUSAL.values(), ids=CAUSAL)
QUANTIZERS: dict[str, Any] = {
    "vector": Vector(codebook_size=32, kmeans_iterations=0),
    "finite_scalar": FiniteScalar(levels=(5, 4, 3, 3)),
    "lookup_free": LookupFree(bits=4),
    "residual": Residual(num_codebooks=2, quantizer=Vector(codebook_size=16, kmeans_iterations=0)),
}


def medium(frames: int, rows: int = 8, columns: int = 16) -> Medium:
    return Medium("video", 3, ALONG_FRAMES, (frames, rows, columns), 6.25)


def frames_of(autoencoder: AutoencoderSettings) -> int:
    return 9 if autoencoder.first_frame_alone else 8


def make(autoencoder: AutoencoderSettings, quantizer: Any = None, frames: int | None = None) -> Any:
    torch.manual_seed(0)
    media = medium(frames or frames_of(autoencoder))
    settings = KL(autoencoder=autoencoder, dim=4) if quantizer is None else VQ(autoencoder=autoencoder, dim=4, quantizer=quantizer)
    tokenizer = settings.build(media)
    for half in (tokenizer.encoder, tokenizer.decoder):
        for parameter in half.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return tokenizer.eval()


def clips(frames: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, frames, 8, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_none_is_left_out() -> None:
    of_clips = {name for name, part in parts_of("autoencoder").items() if getattr(part, "axes", None) == ALONG_FRAMES}
    assert {part.name for part in SMALL.values()} == of_clips - {"clip_blocks"}  # of another test


@EVERY
def test_settings_are_read_back_equal_and_sizes_are_derived(autoencoder: AutoencoderSettings) -> None:
    assert parse_part("autoencoder", autoencoder.model_dump(mode="json")) == autoencoder
    frames = frames_of(autoencoder)
    built = autoencoder.build(channels=2, size=(frames, 8, 16), dim=5, outputs=7, encoded=3)
    time, side, _ = autoencoder.reduction
    grid = (1 + (frames - 1) // time if autoencoder.first_frame_alone else frames // time, 8 // side, 16 // autoencoder.reduction[2])
    assert built.grid((frames, 8, 16)) == grid
    assert built.encoder(torch.zeros(1, 2, frames, 8, 16)).shape == (1, 3, *grid)
    assert built.decoder(torch.zeros(1, 5, *grid)).shape == (1, 7, frames, 8, 16)
    assert built.decoder.last_layer.requires_grad


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
@EVERY
def test_any_quantizer_makes_codes_of_a_grid_of_time_rows_and_columns(autoencoder: AutoencoderSettings, quantizer: Any) -> None:
    tokenizer, media = make(autoencoder, quantizer), clips(frames_of(autoencoder))
    tokens = tokenizer.encode(media)
    assert tokens.layout.axes == ALONG_FRAMES
    assert tokens.layout == tokenizer.layout
    assert tokenizer.decode(tokens).shape == media.shape
    one = tokenizer.encode(media[:1]).values
    assert torch.equal(one, tokens.values[:1])  # items do not meet


@EVERY
def test_latents_are_a_grid_too_and_a_few_steps_reconstruct_better(autoencoder: AutoencoderSettings) -> None:
    tokenizer, media = make(autoencoder).train(), clips(frames_of(autoencoder)) * 0.1 + 0.5
    assert tokenizer.layout.channels == 4
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
    errors = []
    for _ in range(15):
        loss = (tokenizer(media).media - media).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < errors[0] / 4


@CAUSAL_ONES
def test_a_later_frame_changes_no_earlier_latent_and_no_earlier_frame(autoencoder: Causal3d) -> None:
    tokenizer, group = make(autoencoder), autoencoder.reduction[0]
    media = clips(1 + 3 * group)
    latents = tokenizer.features(media)
    means = latents[:, :4].detach().movedim(1, -1)
    frames = tokenizer.maps(means)
    for later in range(1, media.shape[2]):
        changed = media.clone()
        changed[:, :, later:] = -changed[:, :, later:]
        first = 1 + (later - 1) // group  # the first latent frame that may change
        now = tokenizer.features(changed)
        torch.testing.assert_close(now[:, :, :first], latents[:, :, :first], atol=1e-6, rtol=0)
        assert not torch.allclose(now[:, :, first], latents[:, :, first], atol=1e-4)
    for later in range(1, latents.shape[2]):
        moved = means.clone()
        moved[:, later:] += 1.0
        first = 1 + (later - 1) * group
        now = tokenizer.maps(moved)
        torch.testing.assert_close(now[:, :, :first], frames[:, :, :first], atol=1e-6, rtol=0)
        assert not torch.allclose(now[:, :, first], frames[:, :, first], atol=1e-4)


@CAUSAL_ONES
@pytest.mark.parametrize("quantizer", [None, QUANTIZERS["vector"]], ids=["kl", "vq"])
def test_a_picture_is_the_first_frame_of_a_clip(autoencoder: Causal3d, quantizer: Any) -> None:
    tokenizer, media = make(autoencoder, quantizer), clips(9)
    whole, picture = tokenizer.encode(media), tokenizer.encode(media[:, :, :1])
    _, rows, columns = whole.layout.grid
    assert picture.layout == Layout((1, rows, columns), whole.layout.channels, whole.layout.vocabulary)
    torch.testing.assert_close(picture.values, whole.values[:, : rows * columns], atol=1e-5, rtol=0)
    drawn = tokenizer.decode(picture)
    assert drawn.shape == (2, 3, 1, 8, 16)
    torch.testing.assert_close(drawn, tokenizer.decode(whole)[:, :, :1], atol=1e-5, rtol=0)
    if quantizer is None:
        assert tokenizer.decode(tokenizer.encode_to_cache(media[:, :, :1])).shape == drawn.shape


def test_an_untrained_factorised_network_treats_each_frame_as_a_picture() -> None:
    torch.manual_seed(0)
    tokenizer = KL(autoencoder=CAUSAL["factorised"], dim=4).build(medium(9)).eval()
    media = clips(9)
    each = torch.cat([tokenizer.features(frame[:, :, None]) for frame in media[:, :, ::4].unbind(2)], dim=2)
    torch.testing.assert_close(tokenizer.features(media), each, atol=1e-5, rtol=1e-5)
    still = media[:, :, :1].expand(-1, -1, 9, -1, -1)  # a still picture is its own at any time
    rebuilt = tokenizer.decode(tokenizer.encode(still))
    torch.testing.assert_close(rebuilt, tokenizer.decode(tokenizer.encode(media[:, :, :1])).expand_as(rebuilt), atol=1e-5, rtol=1e-5)


def test_known_latents_show_their_own_frames() -> None:
    tokenizer = make(CAUSAL["causal"])
    tokens = tokenizer.encode(clips(9))
    known = torch.zeros(2, 3, 4, 8, dtype=torch.bool)[:, :, :2, :4]  # (B, t, h, w) of 8 x 16 pixels in blocks of 4
    known[:, 1, 1, 2] = True
    shown = tokenizer.decode_known(tokens, known.flatten(1)) != 0
    inside = torch.zeros_like(shown)
    inside[:, :, 1:5, 4:, 8:12] = True  # frames 1 to 4
    assert shown.any()
    assert not (shown & ~inside).any()
    known[:] = False
    known[:, 0] = True
    assert (tokenizer.decode_known(tokens, known.flatten(1)) != 0).any(dim=(0, 1, 3, 4)).tolist() == [True] + [False] * 8


def test_what_does_not_divide_is_named() -> None:
    causal, plain = CAUSAL["causal"], PLAIN["plain"]
    with pytest.raises(
        ValueError, match=r"the first of 16 frames stands alone, and 4 each follow, so choose 1 \+ 4 k frames, such as 13 or 17"
    ):
        KL(autoencoder=causal).build(medium(16))
    with pytest.raises(ValueError, match="9 x 10 x 16 do not divide into tokens of 4 x 4 x 4: choose sizes that are multiples"):
        KL(autoencoder=causal).build(medium(9, 10))
    with pytest.raises(ValueError, match="17 x 8 x 16 do not divide into tokens of 4 x 4 x 4: choose sizes that are multiples"):
        KL(autoencoder=plain).build(medium(17))
    tokenizer = make(causal)
    with pytest.raises(ValueError, match=r"a clip of 12 frames does not divide.*give 1 \+ 4 k frames, such as 9 or 13"):
        tokenizer.encode(clips(12))
    for wrong in (clips(9)[:, :1], clips(9)[..., :8], clips(9)[:, :, 0], clips(9)[:, :, :0]):
        with pytest.raises(ValueError, match=r"\(channels, frames, rows, columns\) = \(3, T, 8, 16\) with T = 1 or more frames, not"):
            tokenizer.encode(wrong)
    with pytest.raises(ValueError, match=r"reads \(channels, time, rows, columns\) = \(3, 8, 8, 16\), not"):
        make(plain).encode(clips(12))
    with pytest.raises(ValueError, match="these tokens are not this tokenizer's"):
        tokenizer.decode(make(causal, QUANTIZERS["vector"]).encode(clips(9)))
    with pytest.raises(ValueError, match="cannot be streamed: choose the autoencoder causal_3d"):
        make(plain).streaming()


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        (Causal3d, {"strides": ((2, 2),)}, "3 stages .* have 2 strides between them, not 1"),
        (Causal3d, {"blocks": (1, 1)}, "blocks .* must name the same 3 stages"),
        (Causal3d, {"decoder_channels": (8, 8)}, "decoder_channels .* must name the same 3 stages"),
        (Convolutional3d, {"strides": (2, 6, 8)}, "powers of 2, such as .*, and 6 is none"),
        (Convolutional3d, {"strides": (1, 1, 1)}, "as many tokens as pixels"),
        (Convolutional3d, {"strided": (8, 8)}, "take 3 convolutions, but strided names 2"),
        (Convolutional3d, {"width": 9, "heads": 2}, "width 9 must be a multiple of heads 2"),
    ],
)
def test_settings_that_do_not_agree_are_refused(kind: Any, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        kind(**settings)
