"""Speech of a given duration: a length regulator against a stop head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level
from jielong.apps.lab.tones import FRAME, LETTERS, RATE, natural, read, recorded, spoken, texts
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.apps.lab.voices import show, train_section
from jielong.data.opening import open_data
from jielong.evaluation.sound.words import edit_distance
from jielong.media.results import ResultItem, Results
from jielong.system import System
from jielong.training import token_cache as cache

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOKENIZER_SECONDS = 20.0
REGULATED, STOPPED, FORCED = "length regulator", "stop head", "stop head, forced duration"
SECONDS = {REGULATED: 20.0, STOPPED: 60.0}
"""Training time; the stop head's model, which must learn alignment and duration, gets three times as long."""
RECORDINGS, COUNT = 400, 24
RATIOS, FIXED = (0.75, 1.0, 1.25, 1.5), 2.0
"""Requested durations of each text: multiples of the natural one, and a fixed number of seconds."""
EXACT, ERRORS = 0.01, 0.1
"""Bounds of the relative duration error and of the letter error rate."""
DATA = f"data: {{set: set by the experiment, sample_rate: {RATE}, duration: 3.2}}"
TOKENIZER = f"""
{DATA}
tokenizer:
  kl:
    autoencoder: {{seanet: {{channels: 16, ratios: [{FRAME}], residual_layers: 0, lstm: 0, norm: none}}}}
    dim: 16
    weight: 0.001
losses: {{regression: {{kind: l2, weight: 100.0}}}}
{train_section("adamw, lr: 5.0e-3")}
"""
CHARACTERS = f"alphabet: {LETTERS}, width: 64, layers: 1, heads: 2"
GENERATORS = {
    REGULATED: f"""
{DATA}
tokenizer: {{checkpoint: set by the experiment}}
condition: {{characters: {{{CHARACTERS}, aligned: search, cfg_dropout: 0}}}}
order: at_once
backbone: {{none: {{width: 64}}}}
head:
  flow_matching: {{network: {{dit: {{layers: 2, width: 64, heads: 2, kernel: 3}}}}, steps: 8, sampler: midpoint, diffusion_batch_mul: 1}}
{train_section("adamw, lr: 2.0e-3", batch=16)}
""",
    STOPPED: f"""
{DATA}
tokenizer: {{checkpoint: set by the experiment}}
condition:
  composite: {{parts: {{characters: {{{CHARACTERS}, cfg_dropout: 0}}, length: {{width: 64, cfg_dropout: 0}}}}, width: 64, cfg_dropout: 0}}
order: raster
backbone: {{transformer: {{layers: 2, width: 64, heads: 2, condition: prefix}}}}
head: {{gaussian_mixture: {{components: 4}}}}
stop_head: {{threshold: 0.5, positive_weight: 20}}
{train_section(batch=16)}
""",
}


@dataclass(frozen=True)
class Synthesis:
    """Synthesised texts and their errors.

    Attributes:
        duration_error: Relative duration error of each text at each requested duration, ``(n, durations)``.
        letter_error: Letter error rates, ``(n, durations)``.
        sounds: Clips of the first text.
        seconds: Durations, ``(n, durations)``.
    """

    duration_error: Tensor
    letter_error: Tensor
    sounds: list[Tensor]
    seconds: Tensor


def durations(words: list[str]) -> Tensor:
    """Requested durations in seconds, ``(n, durations)``, in whole frames."""
    seconds = torch.tensor([[ratio * natural(text) for ratio in RATIOS] + [FIXED] for text in words], dtype=torch.float64)
    return (seconds * RATE / FRAME).round() * FRAME / RATE


def synthesise(system: System, name: str, words: list[str], seed: int) -> Synthesis:
    """Generate all texts at all durations.

    Args:
        system: The generator.
        name: With ``STOPPED`` the duration is only a condition and the stop head ends the clip; otherwise the duration is exact.
        words: The texts.
        seed: Sampling seed.
    """
    requested, errors, lengths, shown = durations(words), [], [], []
    for column in requested.T:
        sounds = _generate(system, name, words, column.tolist(), seed)
        errors.append(_letter_errors([read(sound.tensor) for sound in sounds], words))
        lengths.append(torch.tensor([sound.tensor.shape[1] / RATE for sound in sounds], dtype=torch.float64))
        shown.append(sounds[0].tensor)
    seconds = torch.stack(lengths, 1)
    return Synthesis((seconds - requested).abs() / requested, torch.stack(errors, 1), shown, seconds)


def _generate(system: System, name: str, words: list[str], seconds: list[float], seed: int) -> Results[ResultItem]:
    if name != STOPPED or system.generator is None:
        return system.generate(text=words, seconds=seconds, seed=seed)
    conditions = [{"characters": text, "length": value} for text, value in zip(words, seconds, strict=True)]
    return system.wrap(system.generator.generate(conditions, seed=seed, sampling=system.default_sampling(conditioned=False)))


def _tokenizer_errors(system: System, words: list[str], seed: int) -> Estimate:
    """Letter error rate of reconstructed texts at their natural durations."""
    samples, real = system.tokenizer.media.size[0], [spoken(text, natural(text)) for text in words]
    rebuilt = system.decode(system.encode(torch.stack([F.pad(clip, (0, samples - clip.shape[1])) for clip in real])))
    decoded = [read(each[:, : clip.shape[1]]) for each, clip in zip(rebuilt, real, strict=True)]
    return bootstrap(_letter_errors(decoded, words), seed)


def _letter_errors(decoded: list[str], words: list[str]) -> Tensor:
    """Edit distance relative to the text's length, ``(n,)``."""
    return torch.tensor(
        [edit_distance(ours, theirs) / len(theirs) for ours, theirs in zip(decoded, words, strict=True)], dtype=torch.float64
    )


def correct(synthesis: Synthesis) -> Tensor:
    """Whether duration and letters are right, ``(n, durations)``."""
    return ((synthesis.duration_error <= EXACT) & (synthesis.letter_error == 0)).double()


def judge(regulated: Synthesis, stopped: Synthesis, seed: int) -> list[Check]:
    """Checks of the claim; items are texts, with all their durations."""
    confidence = level(3)
    return [
        Check("length regulator: duration error", bootstrap(regulated.duration_error, seed, confidence), "below", EXACT),
        Check("length regulator: letter error rate", bootstrap(regulated.letter_error, seed, confidence), "below", ERRORS),
        Check("stop head: duration error", bootstrap(stopped.duration_error, seed, confidence), "above", EXACT),
    ]


class SayItInTwoSeconds(Trial, name="say-it-in-two-seconds"):
    """Letters as tones of different durations; unseen texts at longer and shorter durations."""

    claim = (
        "A generator with a length regulator matches a requested duration exactly and speaks the text; one with a stop head, "
        "conditioned on the duration, does not match it."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train a tokenizer and both generators, and synthesise the same texts."""
        data = recorded(bench, bench.scaled(RECORDINGS, 24))
        common = (f"data.set={data}", f"train.seed={bench.seed}")
        tokenizer, _ = bench.train("tokenizer", TOKENIZER, common, seconds=max(1.0, TOKENIZER_SECONDS * bench.budget))
        sounds = open_data(str(data), "train", medium=tokenizer.tokenizer.media, whole=True)
        tokens = bench.folder / "tokens.safetensors"
        cache.write(tokens, cache.tokenize(tokenizer.tokenizer, sounds), cache.identity(tokenizer.tokenizer, sounds))
        changes = (*common, f"tokenizer={{checkpoint: {bench.folder / 'tokenizer'}}}")
        words, syntheses, figures = texts(bench.scaled(COUNT, 3), bench.seed + 10_000), dict[str, Synthesis](), dict[str, Estimate]()
        for index, (name, text) in enumerate(GENERATORS.items()):
            seconds = max(1.0, SECONDS[name] * bench.budget)
            system, summary = bench.train(f"generator-{index}", text, changes, seconds=seconds, tokens=tokens)
            figures[f"training samples, {name}"] = exact(summary.samples)
            for mode in (name,) if name == REGULATED else (STOPPED, FORCED):
                bench.log(f"generating {len(words)} texts at {len(RATIOS) + 1} durations: {mode}")
                syntheses[mode] = synthesise(system, mode, words, bench.seed)
        figures["letter error rate, tokenizer"] = _tokenizer_errors(tokenizer, words, bench.seed)
        for mode, each in syntheses.items():
            figures |= _figures(mode, each, bench.seed)

        def draw(figure: Figure) -> None:
            _draw(figure, syntheses, durations(words))

        provenance = {
            "recipes": {"tokenizer": TOKENIZER, **GENERATORS},
            "texts": len(words),
            "decoder": "the tone with the highest power in each frame",
        }
        remarks = (
            "one training run per model, longer for the stop head: intervals are over texts, not over training runs",
            "if the stop head's letter error rate is high, its model has not learned to read, and its durations mean little",
        )
        return Outcome(judge(syntheses[REGULATED], syntheses[STOPPED], bench.seed), figures, draw, (8.0, 5.0), provenance, remarks)


def _figures(mode: str, synthesis: Synthesis, seed: int) -> dict[str, Estimate]:
    names = [*(f"{ratio:g} times the natural duration" for ratio in RATIOS), f"{FIXED:g} seconds"]
    found = {
        f"duration error, {mode}": bootstrap(synthesis.duration_error, seed),
        f"letter error rate, {mode}": bootstrap(synthesis.letter_error, seed),
        f"duration and letters correct, {mode}": bootstrap(correct(synthesis), seed),
        f"duration at {FIXED:g} seconds, {mode}": bootstrap(synthesis.seconds[:, -1], seed, unit="s"),
    }
    for index, name in enumerate(names):
        found[f"duration error, {mode}, {name}"] = bootstrap(synthesis.duration_error[:, index], seed)
        found[f"letter error rate, {mode}, {name}"] = bootstrap(synthesis.letter_error[:, index], seed)
    return found


def _draw(figure: Figure, syntheses: Mapping[str, Synthesis], requested: Tensor) -> None:
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False)
    names = [*(f"{ratio:g} x" for ratio in RATIOS), f"{FIXED:g} s"]
    left, right = above.subplots(1, 2)
    for (mode, each), colour in zip(syntheses.items(), ("#2a7", "#c52", "#999"), strict=True):
        if mode != FORCED:
            left.plot(requested.flatten().tolist(), each.seconds.flatten().tolist(), "o", color=colour, markersize=2.5, label=mode)
        right.plot(names, (100 * each.letter_error.mean(0)).tolist(), "o-", color=colour)
    left.set_title("requested and actual seconds")
    left.legend()
    right.set_title("letter error rate (%)")
    for row, (mode, each) in zip(below.subplots(len(syntheses), len(names), squeeze=False), syntheses.items(), strict=True):
        for axes, sound, name in zip(row, each.sounds, names, strict=True):
            show(axes, sound)
            axes.set_title(f"{mode}, {name}" if name == names[0] else name, fontsize=6)
