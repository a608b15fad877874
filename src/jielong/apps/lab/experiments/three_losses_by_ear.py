"""Three losses of a codec, one after the other: samples, spectra, and a discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.statistics import bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.apps.lab.voices import BODY, CODES, DATA, FAST, MEL, REGRESSION, given, mel_errors, quiet, show, voices
from jielong.losses.adversarial_sound import SoundAdversarial, SoundAdversarialLoss, StftDiscriminators

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS, CLIPS, LESSONS = 26.0, 96, 150
ALONE, SPECTRA, DISCRIMINATOR = "regression", "with spectra", "with a discriminator"
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
{quiet(FAST)}
"""


def judge(errors: Mapping[str, Tensor], realness: Mapping[str, Tensor], seed: int) -> list[Check]:
    """The bounds that the claim must keep.

    Args:
        errors: Mel distance of each clip by codec, in decibels.
        realness: What a discriminator that none of the codecs has met says of each clip, the higher the more real.
        seed: Of the bootstrap.
    """
    sure = level(2)
    return [
        Check(
            "with spectra beside it, mel bands come back nearer",
            bootstrap(errors[ALONE] - errors[SPECTRA], seed, sure, "dB"),
            "above",
            0.0,
        ),
        Check(
            "with a discriminator beside both, another discriminator finds it more real",
            bootstrap(realness[DISCRIMINATOR] - realness[SPECTRA], seed, sure, "logit"),
            "above",
            0.0,
        ),
    ]


def listen(real: Tensor, made: Mapping[str, Tensor], lessons: int, seed: int, batch: int = 16) -> dict[str, Tensor]:
    """Teach a new discriminator to tell real sounds from all that were made, and ask it about each of them.

    It learns on the first half of the clips, and is asked about the second.

    Args:
        real: ``(n, 1, T)``.
        made: By codec, of the same sounds in the same places.
        lessons: Its updates.
        seed: Of its weights and batches.
        batch: Clips of each kind in an update.

    Returns:
        Mean logit of each clip of the second half, by codec, and of the real ones, by ``real``.
    """
    half = len(real) // 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = SoundAdversarial(discriminators=(StftDiscriminators(windows=(512, 256), channels=8),))
        adversarial = SoundAdversarialLoss(settings, channels=1, samples=real.shape[2])
        optimizer = torch.optim.Adam(adversarial.parameters(), lr=1e-3, betas=(0.5, 0.9))
        for _ in range(lessons):
            rows = torch.randint(half, (batch,))
            fakes = torch.cat([each[rows] for each in made.values()])
            optimizer.zero_grad()
            adversarial.discriminator_loss(real[rows].repeat(len(made), 1, 1), fakes)["total"].backward()
            optimizer.step()
    with torch.no_grad():

        def said(sounds: Tensor) -> Tensor:
            return torch.stack([each.logits.flatten(1).mean(1) for each in adversarial.judge(sounds[half:])]).mean(0)

        return {"real": said(real), **{name: said(each) for name, each in made.items()}}


class ThreeLossesByEar(Trial, name="three-losses-by-ear"):
    """One small codec, trained three times for the same time."""

    claim = "Each loss adds what the one before cannot hear: spectra mend what samples blur, and a discriminator what both leave unreal."

    def run(self, bench: Bench) -> Outcome:
        """Train three codecs, and listen to voices that none of them has heard."""
        real = voices(bench.scaled(CLIPS, 8), bench.seed + 10_000)
        made, figures = {}, {}
        for place, (name, losses) in enumerate(LOSSES.items()):
            text = RECIPE.replace("LOSSES", losses)
            system, summary = bench.train(f"codec-{place}", text, given(bench), seconds=max(1.0, SECONDS * bench.budget))
            made[name] = system.tokenizer.decode(system.tokenizer.encode(real))
            figures[f"clips seen, {name}"] = exact(summary.samples)
        errors = {name: mel_errors(each, real) for name, each in made.items()}
        realness = listen(real, made, bench.scaled(LESSONS, 4), bench.seed)
        figures |= {f"mel distance, {name}": bootstrap(each, bench.seed, unit="dB") for name, each in errors.items()}
        figures |= {f"realness, {name}": bootstrap(each, bench.seed, unit="logit") for name, each in realness.items()}

        def draw(figure: Figure) -> None:
            for axes, (name, sound) in zip(figure.subplots(1, 4), {"real": real, **made}.items(), strict=True):
                show(axes, sound[0], name)

        provenance = {"recipe": RECIPE, "losses": LOSSES, "clips": len(real), "lessons": bench.scaled(LESSONS, 4)}
        remark = "one training of each, on sung vowels: no listener, and no predictor of listeners, was asked"
        return Outcome(judge(errors, realness, bench.seed), figures, draw, (8.0, 2.6), provenance, (remark,))
