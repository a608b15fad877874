"""SEANet: samples per token, causality, and the latency of a stream."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn

from jielong.autoencoders.base import Autoencoder
from jielong.autoencoders.seanet import DAC, Context, SEANet
from jielong.config.registry import parse_part
from jielong.networks.streaming import StreamingModule, latency

HOP = 24
SMALL = {"channels": 4, "ratios": (4, 3, 2)}
CAUSAL = {
    "encodec": SEANet(**SMALL),
    "encodec, reflected": SEANet(**SMALL, padding="reflect"),
    "soundstream": SEANet(
        **SMALL,
        residual_layers=3,
        dilation_base=3,
        residual_kernel=7,
        compress=1,
        shortcut="identity",
        lstm=0,
        norm="none",
        last_kernel=(3, 7),
    ),
    "mimi": SEANet(
        channels=4,
        ratios=(4, 3),
        shortcut="identity",
        lstm=0,
        norm="none",
        last_kernel=3,
        transformer=Context(layers=2, heads=2, window=6),
        downsample=2,
        channelwise_upsampling=True,
    ),
    "dac, causal": DAC(**SMALL, causal=True),
}
OTHERS = {
    "weight norm": SEANet(**SMALL, causal=False, lstm=0),
    "an LSTM": SEANet(**SMALL, causal=False, padding="reflect"),
    "48 kHz": SEANet(**SMALL, causal=False, norm="time_group_norm"),
    "dac": DAC(**SMALL),
}
ALL = CAUSAL | OTHERS


def make(settings: SEANet, channels: int = 1, dim: int = 8) -> Autoencoder:
    torch.manual_seed(0)
    autoencoder = settings.build(channels=channels, size=(10 * HOP,), dim=dim)
    for half in (autoencoder.encoder, autoencoder.decoder):
        half.eval()
        for parameter in half.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return autoencoder


def sound(samples: int = 10 * HOP, channels: int = 1, batch: int = 2) -> Tensor:
    return torch.rand(batch, channels, samples, generator=torch.Generator().manual_seed(1)) * 2 - 1


def pieces(half: nn.Module, x: Tensor, size: int) -> Tensor:
    assert isinstance(half, StreamingModule)
    with half.streaming(len(x)) as stream:
        outputs = [half(part) for part in x.split(size, dim=-1)]
        stream.finish()
        return torch.cat([*outputs, half(x[..., :0])], dim=-1)


@pytest.mark.parametrize("settings", ALL.values(), ids=ALL)
@torch.no_grad()
def test_a_token_covers_a_hop_and_settings_come_back(settings: SEANet) -> None:
    assert parse_part("autoencoder", settings.model_dump(mode="json")) == settings
    autoencoder = make(settings, channels=2)
    assert autoencoder.reduction == settings.reduction == (HOP,)
    for samples, frames in [(10 * HOP, 10), (10 * HOP - 5, 10), (1, 1), (HOP + 1, 2)]:
        features = autoencoder.encoder(sound(samples, 2))
        assert features.shape == (2, 8, frames)
        assert autoencoder.decoder(features).shape == (2, 2, frames * HOP)
    wide = settings.build(channels=1, size=(HOP,), dim=8, outputs=3, encoded=16)
    assert wide.encoder(sound(HOP)).shape == (2, 16, 1)
    assert wide.decoder(torch.zeros(1, 8, 1)).shape == (1, 3, HOP)


@pytest.mark.parametrize("settings", ALL.values(), ids=ALL)
@torch.no_grad()
def test_a_later_sample_changes_nothing_that_is_settled(settings: SEANet) -> None:
    autoencoder, x = make(settings), sound()
    later = x.clone()
    later[..., 8 * HOP :] += 0.5  # behind what the beginning may reflect
    features, changed = autoencoder.encoder(x), autoencoder.encoder(later)
    looks_ahead = not torch.equal(features[..., :8], changed[..., :8])
    decoded, other = autoencoder.decoder(features), autoencoder.decoder(torch.cat([features[..., :8], features[..., 8:] + 1], dim=-1))
    looks_ahead |= not torch.equal(decoded[..., : 8 * HOP], other[..., : 8 * HOP])
    assert looks_ahead == (not settings.causal)
    assert not torch.equal(features[..., 8:], changed[..., 8:])


@pytest.mark.parametrize("size", [HOP, 1, 50, 10 * HOP])
@pytest.mark.parametrize("name", [name for name in ALL if name != "48 kHz"])
@torch.no_grad()
def test_chunks_are_the_whole(name: str, size: int) -> None:
    autoencoder, x = make(ALL[name]), sound(10 * HOP - 7)
    features = autoencoder.encoder(x)
    assert features.std(-1).mean() > 1e-3
    torch.testing.assert_close(pieces(autoencoder.encoder, x, size), features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        pieces(autoencoder.decoder, features, max(1, size // HOP)), autoencoder.decoder(features), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_latency_is_what_a_stream_shows() -> None:
    shown = {}
    for name in ("encodec", "mimi", "weight norm", "dac"):
        autoencoder = make(ALL[name])
        assert isinstance(autoencoder.encoder, StreamingModule)
        assert isinstance(autoencoder.decoder, StreamingModule)
        said = latency(autoencoder.encoder, autoencoder.decoder, HOP)
        out, worst = 0, 0
        with autoencoder.encoder.streaming(), autoencoder.decoder.streaming():
            for taken, sample in enumerate(sound(said + 2 * HOP, batch=1).split(1, dim=-1), 1):
                worst = max(worst, taken - out)  # the oldest sample not out yet is sample `out`, and `taken` have come in
                out += autoencoder.decoder(autoencoder.encoder(sample)).shape[-1]
        assert said == worst, name
        shown[name] = worst
    assert shown["encodec"] == shown["mimi"] == HOP
    assert shown["dac"] > shown["weight norm"] > HOP
    reflected = make(CAUSAL["encodec, reflected"])
    assert latency(reflected.encoder, reflected.decoder, HOP) == HOP  # once begun; the first frame waits for what is reflected
    assert reflected.encoder.required_inputs(1) == (7 - 1) * HOP + HOP


@pytest.mark.parametrize("settings", ALL.values(), ids=ALL)
def test_every_weight_learns_and_is_kept(settings: SEANet) -> None:
    autoencoder = make(settings)
    media = autoencoder.decoder.train()(autoencoder.encoder.train()(sound()))
    (media - sound()).square().mean().backward()
    for half in (autoencoder.encoder, autoencoder.decoder):
        assert [name for name, parameter in half.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []
    assert autoencoder.decoder.last_layer.shape[0] == 1
    again = settings.build(channels=1, size=(HOP,), dim=8)
    again.encoder.load_state_dict(load(save(autoencoder.encoder.state_dict())))
    assert torch.equal(again.encoder.eval()(sound()), autoencoder.encoder.eval()(sound()))


@pytest.mark.parametrize("samples", [HOP, HOP + 1, 4 * HOP - 1, 5])
@torch.no_grad()
def test_silence_fills_the_last_frame_before_the_first_layer(samples: int) -> None:
    encoder, media = make(OTHERS["dac"]).encoder, sound(samples)
    whole = encoder(nn.functional.pad(media, (0, -samples % HOP)))
    assert torch.equal(encoder(media), whole)
    for size in (1, 7, 2 * HOP):
        torch.testing.assert_close(pieces(encoder, media, size), whole, atol=1e-5, rtol=1e-4)
    layer_by_layer = make(DAC(**SMALL, whole_frames=False)).encoder(media)
    assert torch.equal(layer_by_layer, whole) == (samples % HOP == 0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="241 do not divide into tokens of 24"):
        SEANet(**SMALL).build(channels=1, size=(241,), dim=4)
    with pytest.raises(ValueError, match=r"seanet reads \(time\), not a size of 2: choose one of convolutional, resnet, vit"):
        SEANet(**SMALL).build(channels=3, size=(8, 8), dim=4)
    for wrong, why in [
        ({"causal": False, "transformer": {}}, "the transformer is causal"),
        ({"norm": "time_group_norm"}, "not causal"),
        ({"transformer": {"width": 8}, "channelwise_upsampling": True}, "keeps the tokenizer's dim"),
    ]:
        with pytest.raises(ValidationError, match=why):
            SEANet(**wrong)
