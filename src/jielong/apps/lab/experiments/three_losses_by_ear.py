"""A codec with a waveform loss, with a mel loss added, and with a discriminator added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.statistics import bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.apps.lab.voices import BODY, CODES, DATA, FAST, MEL, REGRESSION, data_overrides, mel_errors, show, train_section, voices
from jielong.losses.adversarial_sound import SoundAdversarial, SoundAdversarialLoss, StftDiscriminators

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS, CLIPS, DISCRIMINATOR_STEPS = 26.0, 96, 150
ALONE, SPECTRA, DISCRIMINATOR = "waveform", "waveform + mel", "waveform + mel + adversarial"
LOSSES = {
    ALONE: f"{{{REGRESSION}}}",
    SPECTRA: f"{{{REGRESSION}, {MEL}}}",
    DISCRIMINATOR: f"{{{REGRESSION}, {MEL}, adversarial_sound: {{discriminators: [{{stft: {{windows: [256, 128], channels: 8}}}}]}}}}",
}
RECIPE = f"""
{DATA}
tokenizer:
  vq:
    {BODY}
    dim: 16
    quantizer: {CODES}
losses: LOSSES
{train_section(FAST)}
"""


def judge(errors: Mapping[str, Tensor], realness: Mapping[str, Tensor], seed: int) -> list[Check]:
    """Checks of the claim.

    Args:
        errors: Mel distance of each clip by codec, in decibels.
        realness: Logits of an independent discriminator for each clip, higher for real ones.
        seed: Seed of the resampling.
    """
    confidence = level(2)
    return [
        Check(
            "a mel loss lowers the mel distance",
            bootstrap(errors[ALONE] - errors[SPECTRA], seed, confidence, "dB"),
            "above",
            0.0,
        ),
        Check(
            "an adversarial loss raises the logit of an independent discriminator",
            bootstrap(realness[DISCRIMINATOR] - realness[SPECTRA], seed, confidence, "logit"),
            "above",
            0.0,
        ),
    ]


def independent_logits(real: Tensor, decoded: Mapping[str, Tensor], steps: int, seed: int, batch: int = 16) -> dict[str, Tensor]:
    """Train a new discriminator on the first half of the clips and apply it to the second.

    Args:
        real: ``(n, 1, T)``.
        decoded: Reconstructions by codec, in the same order.
        steps: Updates.
        seed: Seed of weights and batches.
        batch: Clips of each kind per update.

    Returns:
        Mean logit of each clip of the second half, by codec and for ``real``.
    """
    half = len(real) // 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = SoundAdversarial(discriminators=(StftDiscriminators(windows=(512, 256), channels=8),))
        adversarial = SoundAdversarialLoss(settings, channels=1, samples=real.shape[2])
        optimizer = torch.optim.Adam(adversarial.parameters(), lr=1e-3, betas=(0.5, 0.9))
        for _ in range(steps):
            rows = torch.randint(half, (batch,))
            fakes = torch.cat([each[rows] for each in decoded.values()])
            optimizer.zero_grad()
            adversarial.discriminator_loss(real[rows].repeat(len(decoded), 1, 1), fakes)["total"].backward()
            optimizer.step()
    with torch.no_grad():

        def logits(sounds: Tensor) -> Tensor:
            return torch.stack([each.logits.flatten(1).mean(1) for each in adversarial.judge(sounds[half:])]).mean(0)

        return {"real": logits(real), **{name: logits(each) for name, each in decoded.items()}}


class ThreeLossesByEar(Trial, name="three-losses-by-ear"):
    """One small codec with three sets of losses, at equal training time."""

    claim = "A mel loss lowers the mel distance of a codec, and an adversarial loss in addition makes its output more realistic."

    def run(self, bench: Bench) -> Outcome:
        """Train three codecs and compare reconstructions of unseen clips."""
        real = voices(bench.scaled(CLIPS, 8), bench.seed + 10_000)
        decoded, figures = {}, {}
        for index, (name, losses) in enumerate(LOSSES.items()):
            text = RECIPE.replace("LOSSES", losses)
            system, summary = bench.train(f"codec-{index}", text, data_overrides(bench), seconds=max(1.0, SECONDS * bench.budget))
            decoded[name] = system.tokenizer.decode(system.tokenizer.encode(real))
            figures[f"clips seen, {name}"] = exact(summary.samples)
        errors = {name: mel_errors(each, real) for name, each in decoded.items()}
        realness = independent_logits(real, decoded, bench.scaled(DISCRIMINATOR_STEPS, 4), bench.seed)
        figures |= {f"mel distance, {name}": bootstrap(each, bench.seed, unit="dB") for name, each in errors.items()}
        figures |= {f"discriminator logit, {name}": bootstrap(each, bench.seed, unit="logit") for name, each in realness.items()}

        def draw(figure: Figure) -> None:
            for axes, (name, sound) in zip(figure.subplots(1, 4), {"real": real, **decoded}.items(), strict=True):
                show(axes, sound[0], name)

        provenance = {"recipe": RECIPE, "losses": LOSSES, "clips": len(real), "discriminator_steps": bench.scaled(DISCRIMINATOR_STEPS, 4)}
        remark = "one training run per codec, on synthetic vowels, without listening tests or MOS predictors"
        return Outcome(judge(errors, realness, bench.seed), figures, draw, (8.0, 2.6), provenance, (remark,))
