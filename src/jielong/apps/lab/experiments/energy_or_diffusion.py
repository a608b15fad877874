"""Energy head with one NFE per token against diffusion with many, on continuous audio tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jielong.apps.lab.chains import Generated, speedup
from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.apps.lab.voices import (
    BATCH,
    BODY,
    DATA,
    FAST,
    MEL,
    REGRESSION,
    data_overrides,
    generate_voices,
    show,
    train_section,
    training_set,
)
from jielong.data.opening import open_data
from jielong.training import token_cache as cache

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOKENIZER_SECONDS, SECONDS, COUNT, STEPS = 20.0, 24.0, 96, 50
TIMES, FURTHER = 3.0, 1.1
"""Bounds of the speedup and of the ratio of kernel distances."""
TOKENIZER = f"""
{DATA}
tokenizer: {{kl: {{{BODY}, dim: 16, weight: 0.02}}}}
losses: {{{REGRESSION}, {MEL}}}
{train_section(FAST)}
"""
HEADS = {
    "energy": "{energy: {layers: 3, width: 128, noise: 16}}",
    "diffusion": f"{{diffusion: {{network: {{mlp: {{layers: 3, width: 128}}}}, steps: {STEPS}}}}}",
}
GENERATOR = f"""
{DATA}
tokenizer: {{checkpoint: set by the experiment}}
order: raster
backbone: {{transformer: {{layers: 3, width: 64, heads: 2}}}}
head: HEAD
{train_section()}
"""


def judge(energy: Generated, diffusion: Generated, seed: int) -> list[Check]:
    """Checks of the claim."""
    confidence = level(2)
    margin = FURTHER * diffusion.contributions() - energy.contributions()
    return [
        Check(f"energy head: more than {TIMES:g} times as fast", speedup(energy, diffusion, seed, confidence), "above", TIMES),
        Check(
            f"energy head: kernel distance at most {FURTHER:g} times that of diffusion",
            bootstrap(margin, seed, confidence, "kernel distance"),
            "above",
            0.0,
        ),
    ]


class EnergyOrDiffusion(Trial, name="energy-or-diffusion"):
    """One tokenizer with 50 vectors per clip, one transformer, and two heads at equal training time."""

    claim = (
        "On continuous audio tokens, an energy head with one NFE per token has a kernel distance within 10% of diffusion with 50, and is "
        "far faster."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train a tokenizer and both generators, and generate clips."""
        system, _ = bench.train("tokenizer", TOKENIZER, data_overrides(bench), seconds=max(1.0, TOKENIZER_SECONDS * bench.budget))
        sounds, tokens = (
            open_data(str(training_set(bench)), "train", medium=system.tokenizer.media, whole=True),
            bench.folder / "tokens.safetensors",
        )
        cache.write(tokens, cache.tokenize(system.tokenizer, sounds), cache.identity(system.tokenizer, sounds))
        changes = data_overrides(bench, f"tokenizer={{checkpoint: {bench.folder / 'tokenizer'}}}")
        systems, seen = {}, {}
        for name, head in HEADS.items():
            text = GENERATOR.replace("HEAD", head)
            seconds = max(1.0, SECONDS * bench.budget)
            systems[name], summary = bench.train(name, text, changes, seconds=seconds, tokens=tokens)
            seen[name] = summary.samples
        drawn = generate_voices(bench, systems, bench.scaled(COUNT, 4))
        figures: dict[str, Estimate] = {}
        for name, clips in drawn.items():
            figures |= {
                f"kernel distance, {name}": bootstrap(clips.contributions(), bench.seed, unit="kernel distance"),
                f"time per clip, {name}": bootstrap(clips.seconds_per_item, bench.seed, unit="s"),
                f"clips seen, {name}": exact(seen[name]),
            }

        def draw(figure: Figure) -> None:
            for row, name in zip(figure.subplots(2, 3), HEADS, strict=True):
                for axes, sound in zip(row, drawn[name].items, strict=False):
                    show(axes, sound)
                row[0].set_title(f"{name}: NFE per token {1 if name == 'energy' else STEPS}", loc="left")

        provenance = {
            "recipes": {"tokenizer": TOKENIZER, "generator": GENERATOR, "heads": HEADS},
            "timed": f"{BATCH} clips per batch, alternating between systems",
        }
        remark = "one training run per head: intervals are over clips and timing rounds, not over training runs"
        return Outcome(judge(drawn["energy"], drawn["diffusion"], bench.seed), figures, draw, (8.0, 4.2), provenance, (remark,))
