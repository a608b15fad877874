"""Codecs of others as tokenizers: equal to ``transformers`` on the same random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jielong.bodies.seanet import DAC
from jielong.interop.checkpoints import keep_codec
from jielong.interop.codecs import encodec, mimi, read_codec
from jielong.system import load
from jielong.training.checkpoint import CheckpointError

transformers = pytest.importorskip("transformers")

CAUSAL = {"num_filters": 4, "hidden_size": 12, "upsampling_ratios": [4, 3, 2], "codebook_size": 64, "target_bandwidths": [24.0]}
WIDE = {"audio_channels": 2, "sampling_rate": 48_000, "norm_type": "time_group_norm", "use_causal_conv": False, "use_conv_shortcut": False}


def shaken(model: nn.Module) -> nn.Module:
    """All weights moved, also those that begin at zero, and none so small that the sound is lost on the way through."""
    draw = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and "inited" not in name:
            scale = 0.3 if "embed" in name or "lstm" in name else 0.1
            fresh = scale * torch.randn(value.shape, generator=draw)
            value.copy_(value * (1.6 if "original0" in name else 1.0) + fresh)
    return model.eval()


def spread(codes: Tensor, vectors: Tensor, level: int) -> None:
    """Codes where the vectors ``(..., D)`` are, so that many of them are chosen; finer ones at the levels behind."""
    draw, flat = torch.Generator().manual_seed(level), vectors.flatten(0, -2)
    codes.copy_(flat.std(0) * torch.randn(codes.shape, generator=draw) * 0.5**level + (flat.mean(0) if level == 0 else 0))


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
    for level, layer in enumerate(theirs.quantizer.layers):
        spread(layer.codebook.embed, features.mT, level)
    ours = encodec(theirs.config.to_dict(), theirs.state_dict()).tokenizer
    torch.testing.assert_close(ours.encoder(media), features, atol=1e-5, rtol=1e-5)
    codes = theirs.encode(media, bandwidth=24.0).audio_codes[0]  # (B, K, n)
    assert codes.unique().numel() > 10
    assert torch.equal(ours.quantizer.encode(ours.encoder(media).mT).mT, codes)
    heard = theirs.decode(codes[None], [None])[0]
    torch.testing.assert_close(ours.decoder(ours.quantizer.decode(codes.mT).mT), heard, atol=1e-5, rtol=1e-4)


MIMI = {
    "num_filters": 4,
    "hidden_size": 16,
    "upsampling_ratios": [4, 3],
    "codebook_size": 64,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "num_quantizers": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "sliding_window": 6,
    "upsample_groups": 16,
    "frame_rate": 1000,
    "layer_scale_initial_scale": 0.5,
}


def random_mimi() -> Any:
    torch.manual_seed(0)
    theirs = shaken(transformers.MimiModel(transformers.MimiConfig(**MIMI)))
    features = theirs.encoder(sound(1, 24 * 40)).latents.mT
    for branch in (theirs.quantizer.semantic_residual_vector_quantizer, theirs.quantizer.acoustic_residual_vector_quantizer):
        for level, layer in enumerate(branch.layers):
            layer.codebook.cluster_usage.copy_(1 + torch.rand(64, generator=torch.Generator().manual_seed(3)))
            spread(layer.codebook.embed_sum, features @ branch.input_proj.weight[..., 0].T, level)
            layer.codebook.embed_sum.mul_(layer.codebook.cluster_usage[:, None])
            layer.codebook._embed = None
    return theirs


@pytest.mark.parametrize("samples", [24 * 40, 24 * 12 - 5])
@torch.no_grad()
def test_mimi_is_transformers_mimi(samples: int) -> None:
    theirs, media = random_mimi(), sound(1, samples)
    ours = mimi(theirs.config.to_dict(), theirs.state_dict()).tokenizer
    codes = theirs.encode(media).audio_codes  # (B, K, n)
    assert codes.shape[-1] == -(-samples // 24)
    assert all(level.unique().numel() > 5 for level in codes.unbind(1))
    torch.testing.assert_close(ours.features(media), theirs.encoder(media).latents, atol=1e-5, rtol=1e-4)
    tokens = ours.encode(media)
    assert torch.equal(tokens.values.mT, codes)
    assert torch.equal(ours.quantizer.encode(ours.features(media).mT, levels=2).mT, theirs.encode(media, num_quantizers=2).audio_codes)
    heard = theirs.decode(codes).audio_values
    assert heard.std() > 0.05
    torch.testing.assert_close(ours.maps(ours.quantizer.decode(tokens.values)), heard, atol=1e-5, rtol=1e-4)
    with ours.streaming(2):
        chunks = [ours.encode(part).values for part in media.split(24, dim=-1)]
    whole = samples // 24
    assert torch.equal(torch.cat(chunks, dim=1)[:, :whole], tokens.values[:, :whole])


@torch.no_grad()
def test_checkpoints_are_read_from_their_folders(tmp_path: Path) -> None:
    theirs, media = random_mimi(), sound(1, 240)
    # Released files name the halves' parts as the model once did.
    names = {"encoder.encoder_seanet": "encoder", "decoder.decoder_seanet": "decoder", "encoder.encoder_t": "encoder_t"}
    names |= {"decoder.decoder_t": "decoder_t", "encoder.downsample": "downsample", "decoder.upsample": "upsample"}
    state = {}
    for name, value in theirs.state_dict().items():
        new = next((ours + name.removeprefix(own) for own, ours in names.items() if name.startswith(own)), name)
        state[new] = value.contiguous()
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    codec = read_codec(tmp_path)
    assert torch.equal(codec.tokenizer.encode(media).values.mT, theirs.encode(media).audio_codes)
    ours = load(str(keep_codec(codec, tmp_path / "ours")))
    assert torch.equal(ours.encode(media).values, codec.tokenizer.encode(media).values)
    assert ours.tokenizer.media == codec.tokenizer.media
    (tmp_path / "config.json").write_text('{"model_type": "dac"}')
    with pytest.raises(CheckpointError, match="holds no codec of transformers, encodec or mimi"):
        read_codec(tmp_path)
    with pytest.raises(ValueError, match="one semantic quantizer"):
        mimi(theirs.config.to_dict() | {"num_semantic_quantizers": 2}, {})
    with pytest.raises(ValueError, match="trim_right_ratio must be 1"):
        mimi(theirs.config.to_dict() | {"trim_right_ratio": 0.5}, {})


def ours_of_dac(name: str, ratios: int) -> str:
    """Where a weight of their halves stands in our list of layers."""
    half, rest = name.split(".", 1)
    last = 1 + 5 * ratios
    if not rest.startswith("block"):
        place = {"conv1": 0, "snake1": last, "conv2": last + 1}
        first, kind = rest.split(".")
        return f"{half}.layers.{place[first]}.{kind}"
    _, stage, layer, *more = rest.split(".")
    units, offset = layer.startswith("res_unit"), 0 if half == "encoder" else 2
    within = int(layer[-1]) - 1 + offset if units else {"snake1": 3 - 3 * (half == "decoder"), "conv1": 4, "conv_t1": 1}[layer]
    inner = ("snake1", "conv1", "snake2", "conv2").index(more[0]) if units else None
    place = f"{half}.layers.{1 + 5 * int(stage) + within}"
    return f"{place}.branch.layers.{inner}.{more[1]}" if units else f"{place}.{more[0]}"


@pytest.mark.parametrize("samples", [240, 16 * 7])
@torch.no_grad()
def test_the_body_dac_is_transformers_dac(samples: int) -> None:
    torch.manual_seed(0)
    ratios = [2, 4, 2]
    config = transformers.DacConfig(encoder_hidden_size=4, downsampling_ratios=ratios, decoder_hidden_size=48, hidden_size=12)
    theirs = shaken(transformers.DacModel(config))
    body = DAC(channels=4, decoder_channels=6, ratios=tuple(reversed(ratios)), norm="none").build(
        channels=1, size=(240,), dim=config.hidden_size
    )
    ours = nn.ModuleDict({"encoder": body.encoder, "decoder": body.decoder})
    given = {name: value for name, value in theirs.state_dict().items() if not name.startswith("quantizer")}
    ours.load_state_dict({ours_of_dac(name, len(ratios)): value.squeeze(0) if "alpha" in name else value for name, value in given.items()})
    media = sound(1, samples)
    features = theirs.encoder(media)
    assert features.std(-1).mean() > 0.1
    torch.testing.assert_close(body.encoder(media), features, atol=1e-5, rtol=1e-4)
    heard = theirs.decoder(features)
    torch.testing.assert_close(body.decoder(features), heard, atol=1e-5, rtol=1e-4)
