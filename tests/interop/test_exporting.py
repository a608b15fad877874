"""Checkpoints as folders of diffusers and transformers: the library gives our output, and the folder read again is the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from diffusers import AutoencoderKL, DiTPipeline, VQModel
from test_diffusers_autoencoders import KINDS
from test_released_codecs import CAUSAL, WIDE, random_dac, random_mimi, shaken, sound, spread
from tiny_diffusers import autoencoder, dit_pipeline, pictures, sd3_folder, squares, vector_autoencoder
from torch import Tensor
from typer.testing import CliRunner

import jielong
from jielong.apps.cli import app
from jielong.heads.continuous import IterativeHead
from jielong.interop.checkpoints import import_weights
from jielong.interop.exporting import export_folder
from jielong.training.checkpoint import CheckpointError

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def same_weights(one: Path, other: Path) -> None:
    """Two checkpoints of one recipe hold equal tensors."""
    first, second = (jielong.load(str(folder), "cpu") for folder in (one, other))
    assert first.recipe.tokenizer == second.recipe.tokenizer or first.generator is not None
    for mine, again in ((first.tokenizer, second.tokenizer), (first.generator, second.generator)):
        if mine is not None:
            assert again is not None
            found = again.state_dict()
            assert all(torch.equal(found[name], tensor) for name, tensor in mine.state_dict().items() if ".usage." not in name)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_autoencoder_goes_there_and_back(kind: str, tmp_path: Path) -> None:
    autoencoder(**KINDS[kind]).save_pretrained(tmp_path / "theirs")
    import_weights("stable-diffusion-vae", [tmp_path / "theirs"], tmp_path / "ours")
    system = jielong.load(str(tmp_path / "ours"), "cpu")
    notes = export_folder(system, "diffusers", tmp_path / "out")
    assert bool(notes) == (kind == "per-channel")
    theirs = AutoencoderKL.from_pretrained(tmp_path / "out").eval()
    tokens = system.tokenizer.encode(pictures())
    latents = tokens.values / system.tokenizer.scale + system.tokenizer.shift  # type: ignore[operator]
    torch.testing.assert_close(theirs.encode(pictures()).latent_dist.mode().flatten(2).mT, latents, **CLOSE)
    import_weights("stable-diffusion-vae", [tmp_path / "out"], tmp_path / "again")
    one, other = (jielong.load(str(tmp_path / name), "cpu").tokenizer for name in ("ours", "again"))
    torch.testing.assert_close(other.encode(pictures()).values, one.encode(pictures()).values, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_a_vq_autoencoder_goes_there_and_back(tmp_path: Path) -> None:
    vector_autoencoder().save_pretrained(tmp_path / "theirs")
    import_weights("ldm-vq", [tmp_path / "theirs"], tmp_path / "ours")
    system = jielong.load(str(tmp_path / "ours"), "cpu")
    command = ["export", str(tmp_path / "ours"), "--format", "diffusers", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, command)
    assert again.exit_code != 0
    assert "choose a new folder" in again.output
    theirs = VQModel.from_pretrained(tmp_path / "out").eval()
    codes = theirs.quantize(theirs.encode(pictures()).latents)[2][2]
    assert torch.equal(system.tokenizer.encode(pictures()).values.flatten(), codes)
    import_weights("ldm-vq", [tmp_path / "out"], tmp_path / "again")
    same_weights(tmp_path / "ours", tmp_path / "again")


@torch.no_grad()
def test_a_dit_that_was_trained_further_draws_the_same_in_its_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dit_pipeline(tmp_path / "theirs", {0: "tench", 1: "goldfish"})
    import_weights("dit", [tmp_path / "theirs"], tmp_path / "ours")
    export_folder(jielong.load(str(tmp_path / "ours"), "cpu"), "diffusers", tmp_path / "out")
    import_weights("dit", [tmp_path / "out"], tmp_path / "again")
    same_weights(tmp_path / "ours", tmp_path / "again")
    system = jielong.load(str(tmp_path / "ours"), "cpu")
    assert system.generator is not None
    draws = torch.Generator().manual_seed(5)
    for parameter in system.generator.parameters():  # also the placeholder and positions, which are zeros in what is imported
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=draws)
    assert export_folder(system, "diffusers", tmp_path / "further") == []
    pipeline = DiTPipeline.from_pretrained(tmp_path / "further")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.labels["goldfish"] == 1
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *_, **__: noise)
    monkeypatch.setattr(IterativeHead, "initial", lambda *_: squares(noise))
    wanted = pipeline([1], num_inference_steps=5, guidance_scale=4.0, output_type="pt").images
    drawn = system.tokenizer.decode(system.generate_tokens(["goldfish"], num_inference_steps=5))
    torch.testing.assert_close((drawn + 1) / 2, wanted, rtol=1e-3, atol=1e-3)


def random_encodec(change: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    theirs = shaken(transformers.EncodecModel(transformers.EncodecConfig(**CAUSAL | change)))
    features = theirs.encoder(sound(theirs.config.audio_channels, 240))  # type: ignore[operator,union-attr]
    for level, layer in enumerate(theirs.quantizer.layers):  # type: ignore[union-attr,arg-type]
        spread(layer.codebook.embed, features.mT, level)
    return theirs


CODECS = {
    "encodec": lambda: random_encodec({}),
    "encodec-48": lambda: random_encodec(WIDE),
    "mimi": random_mimi,
    "dac": lambda: random_dac([2, 4]),
}


def codes_of(theirs: Any, media: Tensor) -> Tensor:
    if isinstance(theirs, transformers.EncodecModel):
        return theirs.encode(media, bandwidth=theirs.config.target_bandwidths[-1]).audio_codes[0]  # type: ignore[no-any-return]
    return theirs.encode(media).audio_codes  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", CODECS)
@torch.no_grad()
def test_a_codec_goes_there_and_back(kind: str, tmp_path: Path) -> None:
    original = CODECS[kind]()
    original.save_pretrained(tmp_path / "theirs")
    system = kind.split("-")[0]
    import_weights(system, [tmp_path / "theirs"], tmp_path / "ours")
    assert export_folder(jielong.load(str(tmp_path / "ours"), "cpu"), "transformers", tmp_path / "out") == []
    theirs = type(original).from_pretrained(tmp_path / "out").eval()
    media = sound(original.config.audio_channels if system == "encodec" else 1, 240)
    codes = codes_of(original, media)
    assert codes.unique().numel() > 5
    assert torch.equal(codes_of(theirs, media), codes)
    import_weights(system, [tmp_path / "out"], tmp_path / "again")
    same_weights(tmp_path / "ours", tmp_path / "again")


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    sd3_folder(tmp_path / "sd3")
    import_weights("sd3", [tmp_path / "sd3" / part for part in ("transformer", "vae", "scheduler")], tmp_path / "ours")
    system = jielong.load(str(tmp_path / "ours"), "cpu")
    with pytest.raises(CheckpointError, match=r"diffusers has a counterpart of DiT here, and .* has the condition features"):
        export_folder(system, "diffusers", tmp_path / "out")
    with pytest.raises(CheckpointError, match="is a generator, and transformers has a counterpart of codecs alone"):
        export_folder(system, "transformers", tmp_path / "out")
    tokenizer = jielong.load(str(tmp_path / "ours" / "stages" / "tokenizer"), "cpu")
    with pytest.raises(CheckpointError, match="transformers has codecs of sound"):
        export_folder(tokenizer, "transformers", tmp_path / "out")
    assert not (tmp_path / "out").exists()
