"""Audio experiments: each verdict both ways on synthetic figures, measures by oracle, and a run at a tiny budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jielong.apps.lab import Verdict, conclude, run
from jielong.apps.lab import voices as voices_module
from jielong.apps.lab.chains import Generated
from jielong.apps.lab.experiments import carry, energy_or_diffusion, samples, three_losses_by_ear
from jielong.apps.lab.voices import RATE, mel_errors, timbre, voices

pytest.importorskip("soundfile")
pytest.importorskip("soxr")


def noise(n: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


def drawn(distance: float, seconds: float, seed: int = 0) -> Generated:
    each = distance + 0.1 * noise(seed=seed)
    return Generated(torch.empty(0), each, float(each.mean()), seconds * (1 + 0.01 * noise(5, seed).double()))


def test_units_claim_can_hold_and_fail() -> None:
    good, bad = drawn(0.2, 0.1), drawn(1.0, 2.0, seed=1)
    assert conclude(samples.judge(good, bad, 0)) is Verdict.HOLDS
    assert conclude(samples.judge(bad, good, 0)) is Verdict.FAILS
    assert conclude(samples.judge(drawn(0.5, 0.1), drawn(0.5, 2.0, seed=1), 0)) is Verdict.UNKNOWN


def test_levels_claim_can_hold_and_fail() -> None:
    falling = {count: 10.0 - count + 0.1 * noise(seed=count) for count in range(1, 5)}
    assert conclude(carry.judge(falling, 0)) is Verdict.HOLDS
    assert len(carry.judge(falling, 0)) == 3
    assert conclude(carry.judge(falling | {3: falling[3] + 5}, 0)) is Verdict.FAILS
    assert conclude(carry.judge({count: noise(seed=count) for count in range(1, 5)}, 0)) is Verdict.UNKNOWN


def test_one_pass_claim_can_hold_and_fail() -> None:
    many = drawn(1.0, 2.0)
    assert conclude(energy_or_diffusion.judge(drawn(0.98, 0.1, 1), many, 0)) is Verdict.HOLDS
    assert conclude(energy_or_diffusion.judge(drawn(1.5, 0.1, 1), many, 0)) is Verdict.FAILS
    assert conclude(energy_or_diffusion.judge(drawn(0.98, 1.0, 1), many, 0)) is Verdict.FAILS  # twice as fast is not enough


def test_three_losses_claim_can_hold_and_fail() -> None:
    regression, spectra, discriminator = three_losses_by_ear.ALONE, three_losses_by_ear.SPECTRA, three_losses_by_ear.DISCRIMINATOR
    errors = {regression: 9 + noise(), spectra: 5 + noise(seed=1), discriminator: 6 + noise(seed=2)}
    real = {regression: noise() - 3, spectra: noise(seed=1) - 2, discriminator: noise(seed=2)}
    assert conclude(three_losses_by_ear.judge(errors, real, 0)) is Verdict.HOLDS
    assert conclude(three_losses_by_ear.judge(errors | {spectra: 12 + noise()}, real, 0)) is Verdict.FAILS
    assert conclude(three_losses_by_ear.judge(errors, real | {discriminator: noise() - 5}, 0)) is Verdict.FAILS


def test_timbre_depends_on_pitch_and_not_on_a_shift() -> None:
    clips = voices(3, seed=0)
    assert clips.shape == (3, 1, 2_000)
    assert torch.equal(clips, voices(3, seed=0))
    features = timbre(clips)
    moved = timbre(clips.roll(16, dims=-1))
    assert float((features - moved).abs().mean()) < 0.2 * float((features - features.roll(1, 0)).abs().mean())
    assert float(mel_errors(clips, clips).abs().max()) == 0
    assert 19 < float(mel_errors(clips * 0.1, clips).mean()) <= 20.001  # a tenth is 20 dB less, and silence stays silent
    assert RATE == 8_000


def test_an_independent_discriminator_detects_noise() -> None:
    clips = voices(16, seed=0)
    noisy = clips + 0.1 * torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
    logits = three_losses_by_ear.independent_logits(clips, {"noisy": noisy, "equal": clips}, steps=10, seed=0, batch=4)
    assert logits["real"].shape == (8,)
    torch.testing.assert_close(logits["equal"], logits["real"])
    assert bool((logits["real"] > logits["noisy"]).all())


@pytest.mark.parametrize("name", ["samples-are-the-wrong-unit", "carry", "energy-or-diffusion", "three-losses-by-ear"])
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices_module, "SECONDS", 0.04 if name.startswith(("samples", "energy")) else 0.08)
    short = energy_or_diffusion.HEADS["diffusion"].replace("steps: 50", "steps: 5")
    monkeypatch.setitem(energy_or_diffusion.HEADS, "diffusion", short)
    result = run(name, tmp_path, budget=0.01)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["verdict"] == str(result.verdict)
    assert (tmp_path / "plot.png").exists()
    assert all(figure["n"] >= 1 for figure in record["figures"].values())
    if name == "carry":
        assert record["figures"]["bitrate, 2 levels"]["value"] == pytest.approx(2 * 16 * 6 / 0.08 / 1000)
