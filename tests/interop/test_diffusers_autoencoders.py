"""Folders of autoencoders that diffusers writes: ours gives the same latents, codes and pictures, and goes back to the same folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_diffusers import ATTENDING, autoencoder, pictures, vector_autoencoder

import jielong
from jielong.core.tokens import Tokens
from jielong.interop.checkpoints import import_weights
from jielong.interop.systems.diffusers_autoencoders import read_kl
from jielong.training.checkpoint import CheckpointError

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
KINDS: dict[str, dict[str, Any]] = {
    "stable-diffusion": {},
    "attention": ATTENDING,
    "decoder-attention": {"up_block_types": ATTENDING["up_block_types"]},
    "flux": {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1159, "scaling_factor": 0.3611},
    "per-channel": {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 0.5, 2.0, 1.0], "scaling_factor": 0.13},
}


def changed(folder: Path, **values: object) -> Path:
    """A folder with other values in its configuration."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_kl_autoencoder_has_its_latents_and_pictures(kind: str, tmp_path: Path) -> None:
    theirs = autoencoder(**KINDS[kind])
    theirs.save_pretrained(tmp_path / "vae")
    import_weights("stable-diffusion-vae", [tmp_path / "vae"], tmp_path / "ours", check=True)
    tokenizer, shown = jielong.load(str(tmp_path / "ours"), "cpu").tokenizer, pictures()
    posterior, config = theirs.encode(shown).latent_dist, theirs.config
    mean, std = ((torch.tensor(each)[:, None, None] if each else None) for each in (config.latents_mean, config.latents_std))
    shift = mean if mean is not None else config.shift_factor or 0.0
    latents = (posterior.mean - shift) * config.scaling_factor / (1.0 if std is None else std)
    tokens = tokenizer.encode(shown)
    torch.testing.assert_close(tokens.values, latents.flatten(2).mT, **CLOSE)
    rebuilt = theirs.decode(latents * (1.0 if std is None else std) / config.scaling_factor + shift).sample
    torch.testing.assert_close(tokenizer.decode(Tokens(tokens.values, tokenizer.layout)), rebuilt.clamp(-1, 1), **CLOSE)


@torch.no_grad()
def test_a_vq_autoencoder_has_its_codes_and_pictures(tmp_path: Path) -> None:
    theirs = vector_autoencoder()
    theirs.save_pretrained(tmp_path / "vqvae")
    import_weights("ldm-vq", [tmp_path / "vqvae"], tmp_path / "ours", check=True)
    tokenizer, shown = jielong.load(str(tmp_path / "ours"), "cpu").tokenizer, pictures(4)
    encoded = theirs.encode(shown).latents
    codes = theirs.quantize(encoded)[2][2].view(4, -1, 1)
    tokens = tokenizer.encode(shown)
    assert len(codes.unique()) > 4, "the test is of several codes"
    assert torch.equal(tokens.values, codes)
    torch.testing.assert_close(tokenizer.decode(tokens), theirs.decode(encoded).sample.clamp(-1, 1), **CLOSE)


@torch.no_grad()
def test_a_pipeline_and_an_early_folder_are_read_too(tmp_path: Path) -> None:
    theirs = autoencoder()
    theirs.save_pretrained(tmp_path / "pipeline" / "vae")
    (tmp_path / "pipeline" / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}'
    )
    import_weights("stable-diffusion-vae", [tmp_path / "pipeline"], tmp_path / "one")
    early = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    path = tmp_path / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for new, old in early.items():
        weights = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in weights.items()}
    save_file(weights, path)
    import_weights("stable-diffusion-vae", [tmp_path / "pipeline" / "vae"], tmp_path / "two")
    one, two = (jielong.load(str(tmp_path / name), "cpu").tokenizer for name in ("one", "two"))
    assert torch.equal(one.encode(pictures()).values, two.encode(pictures()).values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"act_fn": "gelu"}, "act_fn is 'gelu', not 'silu' or 'swish'"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention is False, not True"),
        ({"down_block_types": ["AttnDownEncoderBlock2D", "DownEncoderBlock2D"]}, "down_block_types is"),
        ({"a_new_key": 1, "act_fn": "relu"}, "a_new_key is not known; act_fn is 'relu'"),
        ({"out_channels": 4}, "in_channels 3 and out_channels 4 differ"),
        ({"use_quant_conv": False}, "use_quant_conv and use_post_quant_conv differ"),
        ({"latents_mean": [1.0]}, "latents_mean has 1 numbers, and latents have 4 channels"),
        ({"shift_factor": 1.0, "latents_mean": [0.0] * 4}, "shift_factor and latents_mean are both set"),
        ({"layers_per_block": 0}, "layers_per_block is 0, not a whole number of 1 or more"),
        ({"layers_per_block": 2}, "missing"),
        ({"_class_name": "AutoencoderTiny"}, "expected a model of the class AutoencoderKL, found AutoencoderTiny"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(values: dict[str, object], named: str, tmp_path: Path) -> None:
    autoencoder().save_pretrained(tmp_path / "vae")
    with pytest.raises(CheckpointError) as fault:
        import_weights("stable-diffusion-vae", [changed(tmp_path / "vae", **values)], tmp_path / "ours")
    assert named in str(fault.value)
    assert not (tmp_path / "ours").exists()


def test_every_key_of_a_written_configuration_is_known(tmp_path: Path) -> None:
    autoencoder().save_pretrained(tmp_path)
    assert read_kl([tmp_path]).media.size == (16, 16)
