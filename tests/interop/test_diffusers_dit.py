"""DiT in a folder that diffusers writes: predictions, pictures with guidance, and the folder again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_diffusers import autoencoder, dit, dit_pipeline, latents_of, squares

import jielong
from jielong.heads.continuous import IterativeHead
from jielong.interop.checkpoints import import_weights
from jielong.interop.systems.diffusers_dit import class_names
from jielong.networks.conditioning import Conditioning
from jielong.training.checkpoint import CheckpointError

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
LABELS = {0: "tench, Tinca tinca", 1: "crane", 2: "crane"}


@torch.no_grad()
def test_predictions_are_those_of_diffusers(tmp_path: Path) -> None:
    pipeline = dit_pipeline(tmp_path / "dit", LABELS)
    import_weights("dit", [tmp_path / "dit"], tmp_path / "ours", check=True)
    system = jielong.load(str(tmp_path / "ours"), "cpu")
    model, latents, labels = system.generator, torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)), [1, 1000]
    wanted = pipeline.transformer(latents, timestep=torch.tensor([137, 871]), class_labels=torch.tensor(labels)).sample
    assert model is not None
    assert model.condition is not None
    given: Conditioning = model.condition(torch.tensor([1, 0]), torch.tensor([False, True]))
    hidden = (model.placeholder + model.position_vectors(model.plan))[None] + model.backbone.pooled(given.pooled)[:, None]  # type: ignore[operator]
    network = model.head.network  # type: ignore[union-attr]
    found = network.predict(squares(latents), torch.tensor([[0.137], [0.871]]), network.prepare(hidden, model.plan.coords))  # type: ignore[operator,union-attr]
    mean, variance = found.chunk(2, -1)
    torch.testing.assert_close(mean, squares(wanted[:, :4]), **CLOSE)
    torch.testing.assert_close(variance, squares(wanted[:, 4:]), **CLOSE)
    assert model.condition.describe()["classes"][:4] == ["tench, Tinca tinca", "crane (1)", "crane (2)", "3"]  # type: ignore[index]


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@torch.no_grad()
def test_pictures_with_guidance_are_those_of_its_pipeline(spacing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = dit_pipeline(tmp_path / "dit", timestep_spacing=spacing)
    import_weights("dit", [tmp_path / "dit"], tmp_path / "ours")
    system = jielong.load(str(tmp_path / "ours"), "cpu")
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *_, **__: noise)
    monkeypatch.setattr(IterativeHead, "initial", lambda *_: squares(noise))
    wanted = pipeline([1, 7], num_inference_steps=10, guidance_scale=4.0, output_type="pt").images
    tokens = system.generate_tokens(["1", "7"], num_inference_steps=10)
    assert system.recipe.sampling.guidance.scale == 4.0
    scaled = latents_of(tokens.values, 4, 8) / pipeline.vae.config.scaling_factor
    torch.testing.assert_close((pipeline.vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1), wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((system.tokenizer.decode(tokens) + 1) / 2, wanted, rtol=1e-3, atol=1e-4)


def test_layers_with_embeddings_of_their_own_are_refused(tmp_path: Path) -> None:
    pipeline = dit_pipeline(tmp_path / "dit")
    torch.nn.init.normal_(pipeline.transformer.transformer_blocks[1].norm1.emb.timestep_embedder.linear_1.weight)
    pipeline.save_pretrained(tmp_path / "dit")
    with pytest.raises(CheckpointError, match="the embedding of times of layer 1 differs from that of the first layer"):
        import_weights("dit", [tmp_path / "dit"], tmp_path / "ours")


@pytest.mark.parametrize(
    ("part", "values", "named"),
    [
        ("transformer", {"norm_type": "layer_norm"}, "norm_type is 'layer_norm', not 'ada_norm_zero'"),
        ("transformer", {"attention_bias": False}, "attention_bias is False, not True"),
        ("transformer", {"out_channels": 12}, "out_channels is 12"),
        ("transformer", {"in_channels": 8, "out_channels": 8}, "draws latents of 8 channels, and the autoencoder's have 4"),
        ("scheduler", {"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid', not linear or scaled_linear or squaredcos_cap_v2"),
        ("scheduler", {"clip_sample": True}, "clip_sample is True"),
        ("scheduler", {"set_alpha_to_one": False}, "set_alpha_to_one is False, not True"),
        ("scheduler", {"_class_name": "PNDMScheduler"}, "is of the class PNDMScheduler"),
        ("scheduler", {"new": 1}, "new is not known"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(part: str, values: dict[str, object], named: str, tmp_path: Path) -> None:
    dit_pipeline(tmp_path / "dit")
    path = tmp_path / "dit" / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(CheckpointError) as fault:
        import_weights("dit", [tmp_path / "dit"], tmp_path / "ours")
    assert named in str(fault.value)
    assert not (tmp_path / "ours").exists()


def test_a_network_needs_its_autoencoder_and_scheduler(tmp_path: Path) -> None:
    dit().save_pretrained(tmp_path / "network")
    autoencoder().save_pretrained(tmp_path / "vae")
    with pytest.raises(CheckpointError, match="there is no AutoencoderKL"):
        import_weights("dit", [tmp_path / "network"], tmp_path / "ours")
    with pytest.raises(CheckpointError, match=r"there is no scheduler_config.json"):
        import_weights("dit", [tmp_path / "network", tmp_path / "vae"], tmp_path / "ours")


def test_classes_without_labels_are_numbers() -> None:
    assert class_names(3, {}) == ("0", "1", "2")
