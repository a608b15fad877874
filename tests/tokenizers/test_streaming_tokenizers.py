"""Tokenizers of sound with SEANet for a body: any length, streams, and long sound in flat memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.autoencoders.seanet import DAC, Context, SEANet
from jielong.core.tokens import Layout, Tokens
from jielong.media.kinds.audio import audio_medium
from jielong.media.kinds.image import image_medium
from jielong.networks.streaming import StreamingModule
from jielong.quantizers.residual import Residual
from jielong.quantizers.vector import Vector
from jielong.tokenizers import grid
from jielong.tokenizers.grid import GridTokenizer, Latency
from jielong.tokenizers.kl import KL, KLTokenizer
from jielong.tokenizers.vq import VQ

HOP = 24
MEDIA = audio_medium(1, 10 * HOP, 24_000)
ENCODEC = SEANet(channels=4, ratios=(4, 3, 2))
MIMI = SEANet(channels=4, ratios=(4, 3), lstm=0, norm="none", transformer=Context(layers=1, heads=2, window=5), downsample=2)
DILATED = DAC(channels=4, ratios=(4, 3, 2))


def make(autoencoder: SEANet, kind: str = "vq") -> Any:
    torch.manual_seed(0)
    codes: Any = Residual.model_validate(
        {"num_codebooks": 2, "quantizer": Vector.model_validate({"codebook_size": 32, "kmeans_iterations": 0})}
    )
    tokenizer = (
        (VQ(autoencoder=autoencoder, dim=8, quantizer=codes) if kind == "vq" else KL(autoencoder=autoencoder, dim=8)).build(MEDIA).eval()
    )
    for half in (tokenizer.encoder, tokenizer.decoder):
        for parameter in half.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    if isinstance(tokenizer, KLTokenizer):
        tokenizer.calibrate([sound(20 * HOP)])
    else:  # codes where the features are
        features = tokenizer.features(sound(20 * HOP)).detach().mT.flatten(0, 1)
        for stage in tokenizer.quantizer.stages:
            stage.codebook.copy_(features.mean(0) * (stage is tokenizer.quantizer.stages[0]) + features.std(0) * torch.randn(32, 8))
    return tokenizer


def sound(samples: int, batch: int = 2, channels: int = 1) -> Tensor:
    return torch.rand(batch, channels, samples, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("kind", ["vq", "kl"])
@pytest.mark.parametrize("autoencoder", [ENCODEC, MIMI, DILATED], ids=["encodec", "mimi", "dac"])
@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, 7 * HOP + 5, 31 * HOP])
def test_sound_of_any_length_comes_to_a_token_a_hop(autoencoder: SEANet, kind: str, samples: int) -> None:
    tokenizer = make(autoencoder, kind)
    tokens = tokenizer.encode(sound(samples))
    frames = -(-samples // HOP)
    assert tokens.layout == Layout((frames,), 2, 32) if kind == "vq" else Layout((frames,), 8)
    assert tokenizer.encode_to_cache(sound(samples)).layout.grid == (frames,)
    assert tokenizer.decode(tokens).shape == (2, 1, frames * HOP)
    assert tokenizer.decode(tokenizer.encode_to_cache(sound(samples))).shape == (2, 1, frames * HOP)
    known = torch.zeros(2, frames, dtype=torch.bool)
    assert not tokenizer.decode_known(tokens, known).any()


@pytest.mark.parametrize("kind", ["vq", "kl"])
@pytest.mark.parametrize("autoencoder", [ENCODEC, MIMI], ids=["encodec", "mimi"])
@pytest.mark.parametrize("size", [HOP, 5 * HOP, 17, 1])
def test_a_stream_is_the_whole(autoencoder: SEANet, kind: str, size: int) -> None:
    tokenizer, media = make(autoencoder, kind), sound(13 * HOP - 3)
    whole = tokenizer.encode(media)
    back = tokenizer.decode(whole)
    decoded, read = [], []
    with tokenizer.streaming(2) as stream:
        parts = media.split(size, dim=-1)
        for number, part in enumerate(parts, 1):
            if number == len(parts):
                stream.finish()
            tokens = tokenizer.encode(part)
            read.append(tokens.values)
            decoded.append(tokenizer.decode(tokens))
            if number < len(parts):  # a token as soon as its last sample is in, and its samples at once
                assert sum(values.shape[1] for values in read) == number * size // HOP
    values = torch.cat(read, dim=1)
    torch.testing.assert_close(values, whole.values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(decoded, dim=-1), back, atol=1e-5, rtol=1e-5)
    assert tokenizer.encoder.stream is None


def test_one_sound_of_several_begins_anew() -> None:
    tokenizer, first, second = make(ENCODEC), sound(8 * HOP), sound(4 * HOP, batch=1).flip(-1)
    whole = tokenizer.encode(first).values[0]
    with tokenizer.streaming(2) as stream:
        one = tokenizer.encode(first[..., : 4 * HOP]).values
        stream.reset(1)
        two = tokenizer.encode(torch.cat([first[:1, :, 4 * HOP :], second])).values
        tokenizer.encode(first[..., :3])
        with pytest.raises(ValueError, match="be reset here: a layer holds 1 of the 2"):
            stream.reset(0)
    assert torch.equal(torch.cat([one, two], dim=1)[0], whole)
    assert torch.equal(two[1], tokenizer.encode(second).values[0])


@pytest.mark.parametrize("autoencoder", [ENCODEC, MIMI, DILATED, ENCODEC.model_copy(update={"causal": False, "padding": "reflect"})])
def test_long_sound_goes_through_in_pieces(autoencoder: SEANet, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, media = make(autoencoder), sound(60 * HOP + 11)
    with torch.no_grad():
        features = tokenizer.encoder(media)
        decoded = tokenizer.decoder(features)
        longest: list[int] = []
        tokenizer.encoder.layers[0].register_forward_pre_hook(lambda layer, given: longest.append(given[0].shape[-1]))
        monkeypatch.setattr(grid, "PIECE", 4 * HOP)
        monkeypatch.setattr(grid, "FRAMES", 1)
        torch.testing.assert_close(tokenizer.features(media), features, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokenizer.maps(features.mT), decoded, atol=1e-5, rtol=1e-5)
    assert max(longest) == 4 * HOP
    assert len(longest) == 16


def test_latency_is_a_frame_and_what_is_looked_ahead() -> None:
    assert make(ENCODEC).latency == Latency(HOP, HOP, 24_000)
    assert make(ENCODEC).latency.seconds == 0.001
    assert make(MIMI).latency == Latency(HOP, HOP, 24_000)
    reflected = make(ENCODEC.model_copy(update={"padding": "reflect"})).latency
    assert (reflected.samples, reflected.first) == (HOP, 7 * HOP)  # seven frames are reflected before the last convolution begins
    assert make(DILATED).latency.samples > 10 * HOP


def test_what_cannot_be_streamed_says_why() -> None:
    with pytest.raises(ValueError, match=r"cannot be streamed: its autoencoder looks \d+ samples \(0.\d+ s\) ahead; train one with causal"):
        make(DILATED).streaming()
    normed = make(SEANet(channels=4, ratios=(4, 3, 2), causal=False, norm="time_group_norm"))
    assert normed.any_length
    assert normed.latency is None
    with pytest.raises(ValueError, match="its norm is over the whole clip"):
        normed.streaming()
    pictures = VQ().build(image_medium(3, (16, 16)))
    assert isinstance(pictures, GridTokenizer)
    assert not pictures.any_length
    with pytest.raises(ValueError, match="cannot be streamed: it has no time axis"):
        pictures.streaming()


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_what_is_no_sound_of_its_kind_is_refused(kind: str) -> None:
    tokenizer = make(ENCODEC, kind)
    with pytest.raises(ValueError, match=r"with 1 channel and a sample or more, not \(1, 2, 48\); .*to_channels makes mono"):
        tokenizer.encode(sound(48, 1, channels=2))
    with pytest.raises(ValueError, match="a sample or more"):
        tokenizer.encode(sound(0))
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="this sound holds NaN or infinite numbers"):
            tokenizer.encode(torch.full((1, 1, 48), value))
    with pytest.raises(ValueError, match=r"numbers up to 2e\+04; samples are numbers in \[-1, 1\]"):
        tokenizer.encode(20_000 * sound(48).sign())
    with pytest.raises(ValueError, match=r"not torch.int16: divide 16-bit samples by 32,768"):
        tokenizer.encode((20_000 * sound(48)).short())
    with pytest.raises(ValueError, match="not this tokenizer's"):
        tokenizer.decode(Tokens(torch.zeros(1, 3, 5, dtype=torch.long), Layout((3,), 5, 32)))


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_other_precisions_one_sample_none_at_all_and_clipping_are_sound(kind: str) -> None:
    tokenizer, media = make(ENCODEC, kind), sound(48).sign()
    values = tokenizer.encode(media).values
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert torch.equal(tokenizer.encode(media.to(dtype)).values, values)
    assert tokenizer.decode(tokenizer.encode(sound(1))).shape == (2, 1, HOP)
    assert tokenizer.decode(tokenizer.encode(sound(48, 0))).shape == (0, 1, 48)


def test_silence_and_stereo() -> None:
    torch.manual_seed(0)
    tokenizer = KL(autoencoder=ENCODEC, dim=8).build(audio_medium(2, 10 * HOP, 24_000)).eval()
    silent = tokenizer.encode(torch.zeros(1, 2, 5 * HOP))
    assert silent.values.isfinite().all()
    assert tokenizer.decode(silent).shape == (1, 2, 5 * HOP)
    assert isinstance(tokenizer.encoder, StreamingModule)
    with pytest.raises(ValueError, match="with 2 channels"):
        tokenizer.encode(sound(48))


def test_it_learns_at_the_length_of_its_media() -> None:
    tokenizer = make(ENCODEC).train()
    result = tokenizer(sound(MEDIA.size[0]), generator=torch.Generator().manual_seed(0))
    assert result.media.shape == (2, *MEDIA.shape)
    (result.media.square().mean() + sum(result.losses.values())).backward()
    assert tokenizer.encoder.layers[0].gain.grad.any()
