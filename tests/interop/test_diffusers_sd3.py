"""SD3's transformer in a folder that diffusers writes: velocities, pictures with guidance, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny_diffusers import latents_of, noisy, sd3, sd3_folder, squares
from torch import Tensor

import jielong
from jielong.conditions.features import Features
from jielong.heads.continuous import IterativeHead
from jielong.interop.checkpoints import import_weights
from jielong.training.checkpoint import CheckpointError

STATES, POOLED = 12, 10


def features(seed: int) -> Features:
    draws = torch.Generator().manual_seed(seed)
    return Features(*(torch.randn(*size, generator=draws) for size in ((5, STATES), (POOLED,), (4, STATES), (POOLED,))))


def velocity(theirs: Any, latents: Tensor, sigma: float, items: list[Features], negative: bool) -> Tensor:
    """Their prediction of noise minus data."""
    states = torch.stack([each.negative_states if negative else each.states for each in items])  # type: ignore[misc]
    pooled = torch.stack([each.negative_pooled if negative else each.pooled for each in items])  # type: ignore[misc]
    times = torch.full((len(latents),), 1000 * sigma)
    return theirs(latents, states, pooled, times).sample  # type: ignore[no-any-return]


@pytest.mark.parametrize("qk_norm", [None, "rms_norm"])
@torch.no_grad()
def test_velocities_are_the_negative_of_theirs_at_one_minus_the_time(qk_norm: str | None, tmp_path: Path) -> None:
    theirs, _ = sd3_folder(tmp_path / "sd3", qk_norm=qk_norm)
    report = import_weights("sd3", [tmp_path / "sd3" / part for part in ("transformer", "vae", "scheduler")], tmp_path / "ours", check=True)
    assert any("text encoders are not imported" in note for note in report.notes)
    model = jielong.load(str(tmp_path / "ours"), "cpu").generator
    assert model is not None
    assert model.condition is not None
    items, latents, network = (
        [features(1), features(2)],
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)),
        model.head.network,
    )
    given = model.condition(model.condition.prepare(items))
    hidden = (model.placeholder + model.position_vectors(model.plan))[None] + model.backbone.pooled(given.pooled)[:, None]  # type: ignore[operator]
    prepared = network.prepare(hidden, model.plan.coords, None, given)  # type: ignore[operator,union-attr]
    for sigma in (0.9, 0.123):
        found = network.predict(squares(latents), torch.tensor([[1 - sigma]]), prepared)  # type: ignore[operator,union-attr]
        wanted = velocity(theirs, latents, sigma, items, negative=False)
        torch.testing.assert_close(found, -squares(wanted), rtol=1e-4, atol=2e-4)


@torch.no_grad()
def test_pictures_with_guidance_are_those_of_its_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, autoencoder = sd3_folder(tmp_path / "sd3")
    import_weights("sd3", [tmp_path / "sd3" / part for part in ("transformer", "vae", "scheduler")], tmp_path / "ours")
    system, items = jielong.load(str(tmp_path / "ours"), "cpu"), [features(1), features(2)]
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(IterativeHead, "initial", lambda *_: squares(noise))
    scheduler, latents = FlowMatchEulerDiscreteScheduler(shift=3.0), noise
    scheduler.set_timesteps(6)
    for time, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        with_text, without = (velocity(theirs, latents, float(sigma), items, negative) for negative in (False, True))
        latents = scheduler.step(without + 7.0 * (with_text - without), time, latents).prev_sample
    assert system.recipe.sampling.guidance.scale == 7.0
    tokens = system.generate_tokens(items, num_inference_steps=6)
    torch.testing.assert_close(latents_of(tokens.values, 4, 8), latents, rtol=1e-3, atol=1e-3)
    config = autoencoder.config
    wanted = autoencoder.decode(latents / config.scaling_factor + config.shift_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(system.tokenizer.decode(tokens), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"dual_attention_layers": [0]}, "dual_attention_layers is (0,), not ()"),
        ({"qk_norm": "layer_norm"}, "qk_norm is 'layer_norm', not None or 'rms_norm'"),
        ({"out_channels": 8}, "out_channels is 8, and 4 would be right"),
        ({"caption_projection_dim": 64}, "caption_projection_dim is 64, and 32 would be right"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(values: dict[str, object], named: str, tmp_path: Path) -> None:
    sd3_folder(tmp_path / "sd3")
    path = tmp_path / "sd3" / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(CheckpointError) as fault:
        import_weights("sd3", [tmp_path / "sd3" / part for part in ("transformer", "vae", "scheduler")], tmp_path / "ours")
    assert named in str(fault.value)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    noisy(sd3()).save_pretrained(tmp_path / "transformer")
    with pytest.raises(CheckpointError, match=r"there is no AutoencoderKL and no scheduler_config.json"):
        import_weights("sd3", [tmp_path / "transformer"], tmp_path / "ours")
