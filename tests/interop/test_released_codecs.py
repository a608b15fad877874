"""Codecs of others as tokenizers: equal to ``transformers`` on the same random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jielong.interop.checkpoints import keep_codec
from jielong.interop.codecs import dac, encodec, mimi, read_codec
from jielong.quantizers.residual import Residual
from jielong.system import load
from jielong.training.checkpoint import WEIGHTS, CheckpointError

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
    reference = theirs.decode(codes[None], [None])[0]
    torch.testing.assert_close(ours.decoder(ours.quantizer.decode(codes.mT).mT), reference, atol=1e-5, rtol=1e-4)


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
    assert torch.equal(
        ours.quantizer.encode(ours.features(media).mT, num_codebooks=2).mT, theirs.encode(media, num_quantizers=2).audio_codes
    )
    reference = theirs.decode(codes).audio_values
    assert reference.std() > 0.05
    torch.testing.assert_close(ours.maps(ours.quantizer.decode(tokens.values)), reference, atol=1e-5, rtol=1e-4)
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
        new = next((ours + name.removeprefix(prefix) for prefix, ours in names.items() if name.startswith(prefix)), name)
        state[new] = value.contiguous()
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    codec = read_codec(tmp_path)
    assert torch.equal(codec.tokenizer.encode(media).values.mT, theirs.encode(media).audio_codes)
    ours = load(str(keep_codec(codec, tmp_path / "ours")))
    assert torch.equal(ours.encode(media).values, codec.tokenizer.encode(media).values)
    assert ours.tokenizer.media == codec.tokenizer.media
    (tmp_path / "config.json").write_text('{"model_type": "xcodec"}')
    with pytest.raises(CheckpointError, match=r"has no codec of transformers: expected a config\.json of encodec, mimi or dac"):
        read_codec(tmp_path)
    with pytest.raises(ValueError, match="one semantic quantizer"):
        mimi(theirs.config.to_dict() | {"num_semantic_quantizers": 2}, {})
    with pytest.raises(ValueError, match="trim_right_ratio must be 1"):
        mimi(theirs.config.to_dict() | {"trim_right_ratio": 0.5}, {})


DAC = {"encoder_hidden_size": 4, "decoder_hidden_size": 48, "n_codebooks": 3, "codebook_size": 64, "codebook_dim": 3}


@torch.no_grad()
def random_dac(ratios: list[int], **more: object) -> Any:
    torch.manual_seed(0)
    theirs = shaken(transformers.DacModel(transformers.DacConfig(**DAC, downsampling_ratios=ratios, **more)))
    rest = theirs.encoder(sound(1, 40 * theirs.config.hop_length))
    for level, each in enumerate(theirs.quantizer.quantizers):
        spread(each.codebook.weight, each.in_proj(rest).mT, 0)
        each.codebook.weight.mul_(1 + level)  # lengths that a lookup must not see
        rest = rest - each(rest)[0]
    return theirs


def right_reach(ratios: list[int]) -> int:
    """Samples at the end that see the last sample of the first stage with an odd ratio, and so depend on whether it is there."""
    reach = 0
    for ratio in reversed(ratios):
        if reach or ratio % 2:
            reach = max(reach * ratio + ratio // 2, 1) + 3 * (1 + 3 + 9)  # a transposed convolution, three dilated units
    return reach + 3 * (reach > 0)  # the last convolution


@pytest.mark.parametrize("ratios", [[2, 4, 2], [2, 3, 5], [5, 3]], ids=str)
@torch.no_grad()
def test_dac_is_transformers_dac(ratios: list[int]) -> None:
    theirs = random_dac(ratios)
    ours = dac(theirs.config.to_dict(), theirs.state_dict()).tokenizer
    media = sound(1, 40 * theirs.config.hop_length)
    features = theirs.encoder(media)
    assert features.std(-1).mean() > 0.05
    torch.testing.assert_close(ours.features(media), features, atol=1e-5, rtol=1e-4)
    codes = theirs.encode(media).audio_codes  # (B, K, n)
    assert all(level.unique().numel() > 5 for level in codes.unbind(1))
    tokens = ours.encode(media)
    assert torch.equal(tokens.values.mT, codes)
    assert torch.equal(ours.quantizer.encode(ours.features(media).mT, num_codebooks=2).mT, theirs.encode(media, n_quantizers=2).audio_codes)
    reference, whole = theirs.decode(audio_codes=codes).audio_values, ours.maps(ours.quantizer.decode(tokens.values))[:, 0]
    assert whole.shape[-1] == media.shape[-1]
    assert reference.std() > 0.05
    same = media.shape[-1] - right_reach(ratios)
    assert same > 100
    torch.testing.assert_close(whole[:, :same], reference[:, :same], atol=1e-4, rtol=1e-3)
    for block in theirs.decoder.block:  # with the samples that odd ratios drop, as X-Codec adjusts the same decoder
        block.conv_t1.output_padding = (block.conv_t1.stride[0] % 2,)
    complete = theirs.decode(audio_codes=codes).audio_values
    torch.testing.assert_close(whole, complete, atol=1e-4, rtol=1e-3)
    if same < media.shape[-1]:
        gap = (complete[:, : reference.shape[-1]] - reference).abs().amax(0)
        assert gap[same:].max() > 1e-2  # the end really differs


@torch.no_grad()
def test_sound_that_ends_within_a_frame_of_dac_is_filled_with_silence() -> None:
    """As ``DacFeatureExtractor`` does before the model sees it."""
    theirs = random_dac([2, 3, 5])
    ours = dac(theirs.config.to_dict(), theirs.state_dict()).tokenizer
    media = sound(1, 30 * 9 - 11)
    prepared = transformers.DacFeatureExtractor(sampling_rate=16_000, hop_length=30)(
        [each.numpy() for each in media[:, 0]], sampling_rate=16_000, return_tensors="pt"
    )["input_values"]
    assert prepared.shape == (2, 1, 30 * 9)
    assert torch.equal(ours.encode(media).values.mT, theirs.encode(prepared).audio_codes)


def test_dac_learns_as_transformers_dac() -> None:
    """Losses, values and every gradient of the quantizer, projections and codebooks included."""
    theirs = random_dac([2, 4, 2]).train()
    ours = dac(theirs.config.to_dict(), theirs.state_dict()).tokenizer.quantizer.train().requires_grad_()
    features, weights = torch.randn(2, 32, 20, generator=torch.Generator().manual_seed(2)), torch.randn(2, 32, 20)
    one, other = features.clone().requires_grad_(), features.clone().requires_grad_()
    values, _, _, commitment, codebook = theirs.quantizer(one)
    found = ours(other.mT)
    torch.testing.assert_close(found.values.mT, values)
    torch.testing.assert_close(found.losses["commitment"], 0.25 * commitment[0])
    torch.testing.assert_close(found.losses["codebook"], codebook[0])
    ((values * weights).sum() + (0.25 * commitment + codebook).mean()).backward()
    ((found.values.mT * weights).sum() + sum(found.losses.values())).backward()
    torch.testing.assert_close(other.grad, one.grad)
    for level, each in enumerate(theirs.quantizer.quantizers):
        stage = ours.stages[level]
        for mine, given in ((stage.inward, each.in_proj), (stage.outward, each.out_proj)):
            torch.testing.assert_close(mine.weight.grad, given.weight.grad.squeeze(-1), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(mine.bias.grad, given.bias.grad, atol=1e-5, rtol=1e-4)
        assert each.codebook.weight.grad.abs().sum() > 0
        torch.testing.assert_close(stage.quantizer.codebook.grad, each.codebook.weight.grad)


@torch.no_grad()
def test_a_folder_of_dac_is_read_and_kept(tmp_path: Path) -> None:
    theirs, media = random_dac([2, 4], quantizer_dropout=0.5), sound(1, 80)
    codes = theirs.encode(media).audio_codes
    theirs.save_pretrained(tmp_path / "plain")
    theirs.apply_weight_norm()
    theirs.save_pretrained(tmp_path / "normed")
    for kind in ("plain", "normed"):
        assert torch.equal(read_codec(tmp_path / kind).tokenizer.encode(media).values.mT, codes)
    codec = read_codec(tmp_path / "plain")
    quantizer = codec.settings.quantizer
    assert isinstance(quantizer, Residual)
    assert (quantizer.num_codebooks, quantizer.dropout) == (3, 0.5)
    ours = load(str(keep_codec(codec, tmp_path / "ours")))
    assert torch.equal(ours.encode(media).values, codec.tokenizer.encode(media).values)
    assert torch.equal(ours.decode(ours.encode(media)), codec.tokenizer.decode(codec.tokenizer.encode(media)))
    weights = dict(theirs.state_dict())
    save_file({name: value.contiguous() for name, value in weights.items() if "quantizers.1" not in name}, tmp_path / "plain" / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"has an incomplete codec: .* has 'quantizer.quantizers.1.codebook.weight'"):
        read_codec(tmp_path / "plain")
    with pytest.raises(ValueError, match="decoder_hidden_size must be a multiple of 4, not 50"):
        dac(theirs.config.to_dict() | {"decoder_hidden_size": 50}, {})
