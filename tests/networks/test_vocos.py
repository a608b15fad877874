"""Vocos: transforms that invert each other, pieces that equal the whole, and settings that cannot work."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from jielong.autoencoders.vocos import Vocos
from jielong.networks.streaming import in_chunks, latency
from jielong.networks.vocos import Analysis, LogMagnitudes, Polar, Synthesis

SMALL = {"window": 32, "stride": 8, "width": 12, "layers": 2, "kernel": 3}


@pytest.mark.parametrize(("channels", "window", "stride"), [(1, 64, 16), (2, 48, 16), (1, 60, 10)])
def test_synthesis_inverts_analysis(channels: int, window: int, stride: int) -> None:
    x = torch.randn(2, channels, 12 * window, generator=torch.Generator().manual_seed(0))
    y = Synthesis(channels, window, stride)(Analysis(channels, window, stride)(x))
    torch.testing.assert_close(y[..., window:-window], x[..., window:-window], atol=1e-5, rtol=0)


def test_analysis_is_torch_stft() -> None:
    window, stride = 64, 16
    x = torch.randn(1, 1, 40 * stride, generator=torch.Generator().manual_seed(0))
    around = (window - stride) // 2
    padded = torch.nn.functional.pad(x[0], (around, around))
    wanted = torch.stft(padded, window, stride, window=torch.hann_window(window), center=False, return_complex=True)
    real, imaginary = Analysis(1, window, stride)(x).unflatten(1, (2, -1)).unbind(1)
    torch.testing.assert_close(torch.complex(real, imaginary) * math.sqrt(3 * window / 8), wanted, atol=1e-4, rtol=1e-4)


def test_noise_has_spectra_of_one() -> None:
    spectra = Analysis(1, 64, 16)(torch.randn(1, 1, 64_000, generator=torch.Generator().manual_seed(0)))
    assert spectra.square().mean().item() * 2 == pytest.approx(1.0, abs=0.05)  # two rows a bin


def test_polar_undoes_logarithms_and_phases() -> None:
    size, phase = torch.rand(1, 5, 4) + 0.1, torch.randn(1, 5, 4)
    real, imaginary = Polar(1)(torch.cat([size.log(), phase], 1)).chunk(2, 1)
    torch.testing.assert_close(torch.complex(real, imaginary), torch.polar(size, phase))
    logs = LogMagnitudes(1)(torch.cat([real, imaginary], 1))
    torch.testing.assert_close(logs[:, :1] - logs[:, 1:2], (size[:, :1].log() - size[:, 1:2].log()) / 2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("downsample", [1, 3])
def test_pieces_equal_the_whole(causal: bool, downsample: int) -> None:
    torch.manual_seed(0)
    hop_length = 8 * downsample
    autoencoder = Vocos(**SMALL, causal=causal, downsample=downsample).build(channels=1, size=(10 * hop_length,), dim=6)
    encoder, decoder = autoencoder.encoder.eval(), autoencoder.decoder.eval()
    x = torch.randn(2, 1, 20 * hop_length + 5)
    with torch.no_grad():
        features = encoder(x)
        sound = decoder(features)
        assert features.shape == (2, 6, 21)
        assert sound.shape == (2, 1, 21 * hop_length)
        for size in (1, 7, 50):
            torch.testing.assert_close(in_chunks(encoder, x, size), features, atol=1e-5, rtol=0)
            torch.testing.assert_close(in_chunks(decoder, features, size), sound, atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_output_depends_on_nothing_beyond_the_latency(causal: bool) -> None:
    torch.manual_seed(0)
    autoencoder = Vocos(**SMALL, causal=causal, downsample=2).build(channels=1, size=(160,), dim=6)
    encoder, decoder = autoencoder.encoder.eval(), autoencoder.decoder.eval()
    behind = latency(encoder, decoder, autoencoder.reduction[0])
    x = torch.randn(1, 1, 640)
    changed = x.clone()
    changed[..., 400:] = torch.randn(240)
    with torch.no_grad():
        apart = (decoder(encoder(x)) - decoder(encoder(changed))).abs()[0, 0]
    first = int(apart.gt(1e-6).nonzero()[0])
    assert 400 - behind <= first < 400 + autoencoder.reduction[0]
    if causal:  # what the two transforms look ahead, and the frame that is under way
        assert behind == 2 * (32 - 8) // 2 + autoencoder.reduction[0]


def test_transforms_are_not_stored() -> None:
    autoencoder = Vocos(**SMALL).build(channels=1, size=(160,), dim=6)
    assert all(
        tensor.shape[-1] < 32
        for half in (autoencoder.encoder, autoencoder.decoder)
        for tensor in half.state_dict().values()
        if tensor.ndim == 3
    )


@pytest.mark.parametrize("wrong", [{"window": 16}, {"window": 36}])
def test_windows_that_do_not_add_up_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="do not add up evenly: take an even multiple of the stride"):
        Vocos(**SMALL | wrong)
