"""Continuous frames of sound: drawn in one pass by an energy head, or in many by diffusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from jielong.apps.lab.chains import Drawn, faster
from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.apps.lab.voices import AT_ONCE, BODY, DATA, FAST, MEL, REGRESSION, draw_voices, given, quiet, show, sung
from jielong.data.opening import open_data
from jielong.training import token_cache as cache

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOKENIZER_SECONDS, SECONDS, COUNT, STEPS = 20.0, 24.0, 96, 50
TIMES, FURTHER = 3.0, 1.1
"""How many times faster one pass must be, and how much further from real voices it may be, as a factor of diffusion's distance."""
TOKENIZER = f"""
{DATA}
tokenizer: {{kl: {{{BODY}, dim: 16, weight: 0.02}}}}
losses: {{{REGRESSION}, {MEL}}}
{quiet(FAST)}
"""
HEADS = {
    "energy": "{energy: {layers: 3, width: 128, noise: 16}}",
    "diffusion": f"{{diffusion: {{network: {{mlp: {{layers: 3, width: 128}}}}, steps: {STEPS}}}}}",
}
GENERATOR = f"""
{DATA}
tokenizer: {{checkpoint: given by the experiment}}
order: raster
backbone: {{transformer: {{layers: 3, width: 64, heads: 2}}}}
head: HEAD
{quiet()}
"""


def judge(energy: Drawn, diffusion: Drawn, seed: int) -> list[Check]:
    """The bounds that the claim must keep."""
    sure = level(2)
    margin = FURTHER * _whole(diffusion) - _whole(energy)
    return [
        Check(f"one pass is more than {TIMES:g} times as fast", faster(energy, diffusion, seed, sure), "above", TIMES),
        Check(
            f"and its voices are at most {FURTHER:g} times as far from real ones",
            bootstrap(margin, seed, sure, "kernel distance"),
            "above",
            0.0,
        ),
    ]


def _whole(drawn: Drawn) -> Tensor:
    """Numbers whose mean is the whole distance, an item each."""
    return drawn.distance + (drawn.overall - drawn.distance.mean())


class EnergyOrDiffusion(Trial, name="energy-or-diffusion"):
    """One tokenizer of 50 vectors a clip, one transformer, and two heads, trained for the same time."""

    claim = "One pass of an energy head is as good as many of diffusion on frames of sound, give or take a tenth, and far quicker."

    def run(self, bench: Bench) -> Outcome:
        """Train a tokenizer, both chains on its tokens, and let both sing."""
        system, _ = bench.train("tokenizer", TOKENIZER, given(bench), seconds=max(1.0, TOKENIZER_SECONDS * bench.budget))
        sounds, tokens = (
            open_data(str(sung(bench)), "train", medium=system.tokenizer.media, whole=True),
            bench.folder / "tokens.safetensors",
        )
        cache.write(tokens, cache.tokenize(system.tokenizer, sounds), cache.identity(system.tokenizer, sounds))
        changes = given(bench, f"tokenizer={{checkpoint: {bench.folder / 'tokenizer'}}}")
        systems, seen = {}, {}
        for name, head in HEADS.items():
            text = GENERATOR.replace("HEAD", head)
            seconds = max(1.0, SECONDS * bench.budget)
            systems[name], summary = bench.train(name, text, changes, seconds=seconds, tokens=tokens)
            seen[name] = summary.samples
        drawn = draw_voices(bench, systems, bench.scaled(COUNT, 4))
        figures: dict[str, Estimate] = {}
        for name, made in drawn.items():
            figures |= {
                f"kernel distance, {name}": bootstrap(_whole(made), bench.seed, unit="kernel distance"),
                f"time a clip, {name}": bootstrap(made.pace, bench.seed, unit="s"),
                f"clips seen, {name}": exact(seen[name]),
            }

        def draw(figure: Figure) -> None:
            for row, name in zip(figure.subplots(2, 3), HEADS, strict=True):
                for axes, sound in zip(row, drawn[name].pictures, strict=False):
                    show(axes, sound)
                row[0].set_title(f"{name}: {1 if name == 'energy' else STEPS} evaluations a token", loc="left")

        provenance = {
            "recipes": {"tokenizer": TOKENIZER, "generator": GENERATOR, "heads": HEADS},
            "timed": f"{AT_ONCE} clips at once, in turns",
        }
        remark = "one training of each: the intervals are over clips drawn and rounds timed, not over other trainings"
        return Outcome(judge(drawn["energy"], drawn["diffusion"], bench.seed), figures, draw, (8.0, 4.2), provenance, (remark,))
