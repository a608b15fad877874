"""What is the unit of sound? A chain of samples against a chain of codes, the same time for both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jielong.apps.lab.chains import REMARK, Drawn, Plan, faster, nearer, train_chain
from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.apps.lab.voices import AT_ONCE, BODY, CODES, DATA, FAST, MEL, REGRESSION, draw_voices, given, quiet, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS, COUNT = 26.0, 48
SAMPLES = Plan(
    "samples",
    f"""
{DATA}
tokenizer: samples
order: raster
backbone: {{wavenet: {{stacks: 1, layers: 9, width: 24, skip: 48}}}}
head: softmax
{quiet(warmup=32, batch=2)}
""",
)
CHAIN = Plan(
    "codes",
    f"""
{DATA}
tokenizer: {{checkpoint: given by the experiment}}
order: raster
backbone: {{transformer: {{layers: 3, width: 64, heads: 2}}}}
head: softmax
{quiet()}
""",
    f"""
{DATA}
tokenizer:
  vq:
    {BODY}
    dim: 16
    quantizer: {CODES}
losses: {{{REGRESSION}, {MEL}}}
{quiet(FAST)}
""",
    share=0.6,
)


def judge(codes: Drawn, samples: Drawn, seed: int) -> list[Check]:
    """The bounds that the claim must keep."""
    sure = level(2)
    return [
        Check(
            "the chain of codes sings nearer to real voices, trained for the same time", nearer(codes, samples, seed, sure), "above", 0.0
        ),
        Check("and makes a clip in less time", faster(codes, samples, seed, sure), "above", 1.0),
    ]


class Samples(Trial, name="samples-are-the-wrong-unit"):
    """A WaveNet over 2,000 samples against a codec and a transformer over its 50 codes."""

    claim = (
        "Samples can be chained, but they are the wrong unit: in the same time, a chain of codes learns to sing better, and sings faster."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train both for the same time, codec included, and let both sing."""
        plans, count = (CHAIN, SAMPLES), bench.scaled(COUNT, 4)
        chains = [train_chain(bench, plan, max(1.0, SECONDS * bench.budget), given(bench)) for plan in plans]
        drawn = draw_voices(bench, {chain.name: chain.system for chain in chains}, count)
        figures: dict[str, Estimate] = {}
        for chain in chains:
            made = drawn[chain.name]
            own = made.overall - made.distance.mean().item()
            figures |= {
                f"kernel distance, {chain.name}": bootstrap(made.distance + own, bench.seed, unit="kernel distance"),
                f"time a clip, {chain.name}": bootstrap(made.pace, bench.seed, unit="s"),
                f"positions a clip, {chain.name}": exact(chain.system.tokenizer.layout.positions),
                f"clips seen, {chain.name}": exact(chain.samples),
                f"seconds of training, {chain.name}": exact(chain.seconds, "s"),
            }

        def draw(figure: Figure) -> None:
            for row, name in zip(figure.subplots(2, 3), ("codes", "samples"), strict=True):
                for axes, sound in zip(row, drawn[name].pictures, strict=False):
                    show(axes, sound)
                row[0].set_title(f"{name}: {figures[f'positions a clip, {name}'].value:,.0f} steps a clip", loc="left")

        provenance = {
            "recipes": {plan.name: {"tokenizer": plan.tokenizer, "generator": plan.generator, "share": plan.share} for plan in plans},
            "distance": "unbiased MMD, kernel (x.y/D + 1)^3, mean, spread and movement of mel bands, against unseen synthetic vowels",
            "drawn": count,
            "timed": f"{AT_ONCE} clips at once, in turns",
        }
        return Outcome(judge(drawn["codes"], drawn["samples"], bench.seed), figures, draw, (8.0, 4.2), provenance, (REMARK,))
