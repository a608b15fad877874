"""Codecs of others as tokenizers: equal to ``transformers`` on the same random weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jielong.interop.codecs import encodec

transformers = pytest.importorskip("transformers")

CAUSAL = {"num_filters": 4, "hidden_size": 12, "upsampling_ratios": [4, 3, 2], "codebook_size": 64, "target_bandwidths": [24.0]}
WIDE = {"audio_channels": 2, "sampling_rate": 48_000, "norm_type": "time_group_norm", "use_causal_conv": False, "use_conv_shortcut": False}


def shaken(model: nn.Module) -> nn.Module:
    """All weights anew, also those that begin at zero, and none so small that the sound is lost on the way through."""
    draw = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and "inited" not in name:
            scale = 0.3 if "embed" in name or "lstm" in name else 0.1
            fresh = scale * torch.randn(value.shape, generator=draw)
            value.copy_(value * (1.6 if "original0" in name else 1.0) + fresh)
    return model.eval()


def spread_codes(model: nn.Module, features: Tensor) -> None:
    """Codes where the features are, so that many of them are chosen."""
    draw, vectors = torch.Generator().manual_seed(2), features.mT.flatten(0, 1)
    for level, layer in enumerate(model.quantizer.layers):
        codes = layer.codebook.embed
        codes.copy_(vectors.std(0) * torch.randn(codes.shape, generator=draw) * 0.5**level + (vectors.mean(0) if level == 0 else 0))


def sound(channels: int, samples: int) -> Tensor:
    return torch.rand(2, channels, samples, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("samples", [240, 235, 50])
@pytest.mark.parametrize("change", [{}, {"pad_mode": "constant", "num_residual_layers": 2}, WIDE], ids=["24 kHz", "constant", "48 kHz"])
@torch.no_grad()
def test_encodec_is_transformers_encodec(change: dict[str, object], samples: int) -> None:
    torch.manual_seed(0)
    theirs = shaken(transformers.EncodecModel(transformers.EncodecConfig(**CAUSAL | change)))
    media = sound(theirs.config.audio_channels, samples)
    features = theirs.encoder(media)
    assert features.std(-1).mean() > 0.1  # nothing is compared by its biases alone
    spread_codes(theirs, features)
    ours = encodec(theirs.config.to_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.encoder(media), features, atol=1e-5, rtol=1e-5)
    codes = theirs.encode(media, bandwidth=24.0).audio_codes[0]  # (B, K, n)
    assert codes.unique().numel() > 10
    assert torch.equal(ours.quantizer.encode(ours.encoder(media).mT).mT, codes)
    heard = theirs.decode(codes[None], [None])[0]
    torch.testing.assert_close(ours.decoder(ours.quantizer.decode(codes.mT).mT), heard, atol=1e-5, rtol=1e-4)
