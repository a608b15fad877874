"""Autoregression over audio samples against codes, at equal training time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jielong.apps.lab.chains import REMARK, Generated, TrainingPlan, distance_gain, speedup, train_plan
from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.apps.lab.voices import BATCH, BODY, CODES, DATA, FAST, MEL, REGRESSION, data_overrides, generate_voices, show, train_section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS, COUNT = 26.0, 48
SAMPLES = TrainingPlan(
    "samples",
    f"""
{DATA}
tokenizer: samples
order: raster
backbone: {{wavenet: {{stacks: 1, layers: 9, width: 24, skip: 48}}}}
head: softmax
{train_section(warmup=32, batch=2)}
""",
)
CHAIN = TrainingPlan(
    "codes",
    f"""
{DATA}
tokenizer: {{checkpoint: set by the experiment}}
order: raster
backbone: {{transformer: {{layers: 3, width: 64, heads: 2}}}}
head: softmax
{train_section()}
""",
    f"""
{DATA}
tokenizer:
  vq:
    {BODY}
    dim: 16
    quantizer: {CODES}
losses: {{{REGRESSION}, {MEL}}}
{train_section(FAST)}
""",
    share=0.6,
)


def judge(codes: Generated, samples: Generated, seed: int) -> list[Check]:
    """Checks of the claim."""
    confidence = level(2)
    return [
        Check(
            "codes: lower kernel distance from real clips at equal training time",
            distance_gain(codes, samples, seed, confidence),
            "above",
            0.0,
        ),
        Check("codes: less time per clip", speedup(codes, samples, seed, confidence), "above", 1.0),
    ]


class Samples(Trial, name="samples-are-the-wrong-unit"):
    """WaveNet over 2,000 samples against a codec and a transformer over 50 codes."""

    claim = "At equal training time, an autoregressive model of codec codes generates better audio than one of samples, and faster."

    def run(self, bench: Bench) -> Outcome:
        """Train both for the same time, codec included, and generate clips."""
        plans, count = (CHAIN, SAMPLES), bench.scaled(COUNT, 4)
        chains = [train_plan(bench, plan, max(1.0, SECONDS * bench.budget), data_overrides(bench)) for plan in plans]
        drawn = generate_voices(bench, {chain.name: chain.system for chain in chains}, count)
        figures: dict[str, Estimate] = {}
        for chain in chains:
            clips = drawn[chain.name]
            figures |= {
                f"kernel distance, {chain.name}": bootstrap(clips.contributions(), bench.seed, unit="kernel distance"),
                f"time per clip, {chain.name}": bootstrap(clips.seconds_per_item, bench.seed, unit="s"),
                f"positions per clip, {chain.name}": exact(chain.system.tokenizer.layout.positions),
                f"clips seen, {chain.name}": exact(chain.samples),
                f"seconds of training, {chain.name}": exact(chain.seconds, "s"),
            }

        def draw(figure: Figure) -> None:
            for row, name in zip(figure.subplots(2, 3), ("codes", "samples"), strict=True):
                for axes, sound in zip(row, drawn[name].items, strict=False):
                    show(axes, sound)
                row[0].set_title(f"{name}: {figures[f'positions per clip, {name}'].value:,.0f} steps per clip", loc="left")

        provenance = {
            "recipes": {plan.name: {"tokenizer": plan.tokenizer, "generator": plan.generator, "share": plan.share} for plan in plans},
            "distance": "unbiased MMD, kernel (x.y/D + 1)^3, mean, deviation and change of mel bands, against other vowels",
            "generated": count,
            "timed": f"{BATCH} clips per batch, alternating between systems",
        }
        return Outcome(judge(drawn["codes"], drawn["samples"], bench.seed), figures, draw, (8.0, 4.2), provenance, (REMARK,))
