"""How long is it to be? A generator that draws a text over a length it is told, beside one that ends when it finds that it is over."""

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
from jielong.apps.lab.voices import quiet, show
from jielong.data.opening import open_data
from jielong.evaluation.sound.words import edits
from jielong.media.results import ResultItem, Results
from jielong.system import System
from jielong.training import token_cache as cache

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOKENIZER_SECONDS = 20.0
SECONDS = {"told": 20.0, "ends by itself": 60.0}
"""Of training: the one that ends by itself must learn to follow the text and to count, and gets three times as long."""
RECORDINGS, COUNT = 400, 24
RATIOS, FIXED = (0.75, 1.0, 1.25, 1.5), 2.0
"""Lengths asked of every text: so many times its natural one, and so many seconds."""
EXACT, ERRORS = 0.01, 0.1
"""How far from the asked length still meets it, as a share of it; and how many letters may be wrong of those that were meant."""
TOLD, ITSELF, FORCED = "told", "ends by itself", "forced to end"
DATA = f"data: {{set: given by the experiment, sample_rate: {RATE}, duration: 3.2}}"
TOKENIZER = f"""
{DATA}
tokenizer:
  kl:
    autoencoder: {{seanet: {{channels: 16, ratios: [{FRAME}], residual_layers: 0, lstm: 0, norm: none}}}}
    dim: 16
    weight: 0.001
losses: {{regression: {{kind: l2, weight: 100.0}}}}
{quiet("adamw, lr: 5.0e-3")}
"""
SPELT = f"alphabet: {LETTERS}, width: 64, layers: 1, heads: 2"
GENERATORS = {
    TOLD: f"""
{DATA}
tokenizer: {{checkpoint: given by the experiment}}
condition: {{characters: {{{SPELT}, aligned: search, cfg_dropout: 0}}}}
order: at_once
backbone: {{none: {{width: 64}}}}
head:
  flow_matching: {{network: {{dit: {{layers: 2, width: 64, heads: 2, kernel: 3}}}}, steps: 8, sampler: midpoint, diffusion_batch_mul: 1}}
{quiet("adamw, lr: 2.0e-3", batch=16)}
""",
    ITSELF: f"""
{DATA}
tokenizer: {{checkpoint: given by the experiment}}
condition:
  composite: {{parts: {{characters: {{{SPELT}, cfg_dropout: 0}}, length: {{width: 64, cfg_dropout: 0}}}}, width: 64, cfg_dropout: 0}}
order: raster
backbone: {{transformer: {{layers: 2, width: 64, heads: 2, condition: prefix}}}}
head: {{gaussian_mixture: {{components: 4}}}}
stop_head: {{threshold: 0.5, positive_weight: 20}}
{quiet(batch=16)}
""",
}


@dataclass(frozen=True)
class Said:
    """What a generator said.

    Attributes:
        lengths: ``|got - asked| / asked`` of each text at each asked length, ``(n, lengths)``.
        wrong: Letters inserted, left out or exchanged, over those that were meant, ``(n, lengths)``.
        sounds: Of the first text at each asked length.
        got: Seconds of each text at each asked length, ``(n, lengths)``.
    """

    lengths: Tensor
    wrong: Tensor
    sounds: list[Tensor]
    got: Tensor


def asks(words: list[str]) -> Tensor:
    """Seconds asked of each text, ``(n, lengths)``: in whole frames, so that any system could meet them."""
    wanted = torch.tensor([[ratio * natural(text) for ratio in RATIOS] + [FIXED] for text in words], dtype=torch.float64)
    return (wanted * RATE / FRAME).round() * FRAME / RATE


def say(system: System, name: str, words: list[str], seed: int) -> Said:
    """Let a generator say all texts at all lengths.

    Args:
        system: The generator.
        name: Which: the one that ends by itself is told the length and left to end, unless it is forced to it.
        words: The texts.
        seed: Of what is drawn.
    """
    asked, wrong, got, shown = asks(words), [], [], []
    for column in asked.T:
        sounds = _spoken(system, name, words, column.tolist(), seed)
        wrong.append(_wrong([read(sound.tensor) for sound in sounds], words))
        got.append(torch.tensor([sound.tensor.shape[1] / RATE for sound in sounds], dtype=torch.float64))
        shown.append(sounds[0].tensor)
    seconds = torch.stack(got, 1)
    return Said((seconds - asked).abs() / asked, torch.stack(wrong, 1), shown, seconds)


def _spoken(system: System, name: str, words: list[str], seconds: list[float], seed: int) -> Results[ResultItem]:
    if name != ITSELF or system.generator is None:
        return system.generate(text=words, seconds=seconds, seed=seed)
    told = [{"characters": text, "length": value} for text, value in zip(words, seconds, strict=True)]
    return system.wrap(system.generator.generate(told, seed=seed, sampling=system.default_sampling(conditioned=False)))


def _lost(system: System, words: list[str], seed: int) -> Estimate:
    """Letters that the tokenizer alone gets wrong, of the texts at their natural length."""
    samples, real = system.tokenizer.media.size[0], [spoken(text, natural(text)) for text in words]
    back = system.decode(system.encode(torch.stack([F.pad(clip, (0, samples - clip.shape[1])) for clip in real])))
    said = [read(made[:, : clip.shape[1]]) for made, clip in zip(back, real, strict=True)]
    return bootstrap(_wrong(said, words), seed)


def _wrong(said: list[str], meant: list[str]) -> Tensor:
    """Letters inserted, left out or exchanged, over those that were meant, ``(n,)``."""
    return torch.tensor([edits(ours, theirs) / len(theirs) for ours, theirs in zip(said, meant, strict=True)], dtype=torch.float64)


def met(said: Said) -> Tensor:
    """Whether each text came in the asked length with all its letters, ``(n, lengths)``."""
    return ((said.lengths <= EXACT) & (said.wrong == 0)).double()


def judge(told: Said, itself: Said, seed: int) -> list[Check]:
    """The bounds that the claim must keep; texts are the items, all their lengths together."""
    sure = level(3)
    return [
        Check("told a length, it is met", bootstrap(told.lengths, seed, sure), "below", EXACT),
        Check("and the letters are said", bootstrap(told.wrong, seed, sure), "below", ERRORS),
        Check("one that ends by itself misses the length", bootstrap(itself.lengths, seed, sure), "above", EXACT),
    ]


class SayItInTwoSeconds(Trial, name="say-it-in-two-seconds"):
    """Letters that are tones, each with a length of its own: texts that were never heard, asked to last longer and shorter."""

    claim = (
        "A generator that draws a text over the length it is told meets it exactly and still says the words; one that ends by itself, "
        "though it is told as well, misses it."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train a tokenizer and both generators, and let them say the same texts."""
        data = recorded(bench, bench.scaled(RECORDINGS, 24))
        own = (f"data.set={data}", f"train.seed={bench.seed}")
        tokenizer, _ = bench.train("tokenizer", TOKENIZER, own, seconds=max(1.0, TOKENIZER_SECONDS * bench.budget))
        sounds = open_data(str(data), "train", medium=tokenizer.tokenizer.media, whole=True)
        tokens = bench.folder / "tokens.safetensors"
        cache.write(tokens, cache.tokenize(tokenizer.tokenizer, sounds), cache.identity(tokenizer.tokenizer, sounds))
        changes = (*own, f"tokenizer={{checkpoint: {bench.folder / 'tokenizer'}}}")
        words, said, figures = texts(bench.scaled(COUNT, 3), bench.seed + 10_000), dict[str, Said](), dict[str, Estimate]()
        for place, (name, text) in enumerate(GENERATORS.items()):
            seconds = max(1.0, SECONDS[name] * bench.budget)
            system, summary = bench.train(f"generator-{place}", text, changes, seconds=seconds, tokens=tokens)
            figures[f"recordings heard in training, {name}"] = exact(summary.samples)
            for way in (name,) if name == TOLD else (ITSELF, FORCED):
                bench.tell(f"saying {len(words)} texts in {len(RATIOS) + 1} lengths: {way}")
                said[way] = say(system, way, words, bench.seed)
        figures["letters wrong, tokenizer"] = _lost(tokenizer, words, bench.seed)
        for way, each in said.items():
            figures |= _figures(way, each, bench.seed)

        def draw(figure: Figure) -> None:
            _draw(figure, said, asks(words))

        provenance = {
            "recipes": {"tokenizer": TOKENIZER, **GENERATORS},
            "texts": len(words),
            "reader": "the tone with most power, by frame",
        }
        remarks = (
            "one training of each, longer of the one that ends by itself: the intervals are over texts, not over other trainings",
            "where the one that ends by itself gets most letters wrong, it cannot read yet, and its lengths are those of a beginner",
        )
        return Outcome(judge(said[TOLD], said[ITSELF], bench.seed), figures, draw, (8.0, 5.0), provenance, remarks)


def _figures(way: str, said: Said, seed: int) -> dict[str, Estimate]:
    """Everything measured of one way to speak."""
    names = [*(f"{ratio:g} times the natural length" for ratio in RATIOS), f"{FIXED:g} seconds"]
    found = {
        f"length error, {way}": bootstrap(said.lengths, seed),
        f"letters wrong, {way}": bootstrap(said.wrong, seed),
        f"length and letters right, {way}": bootstrap(met(said), seed),
        f"what comes out of {FIXED:g} seconds, {way}": bootstrap(said.got[:, -1], seed, unit="s"),
    }
    for place, name in enumerate(names):
        found[f"length error, {way}, {name}"] = bootstrap(said.lengths[:, place], seed)
        found[f"letters wrong, {way}, {name}"] = bootstrap(said.wrong[:, place], seed)
    return found


def _draw(figure: Figure, said: Mapping[str, Said], asked: Tensor) -> None:
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False)
    names = [*(f"{ratio:g} x" for ratio in RATIOS), f"{FIXED:g} s"]
    left, right = above.subplots(1, 2)
    for way, colour in zip(said, ("#2a7", "#c52", "#999"), strict=True):
        if way != FORCED:
            left.plot(asked.flatten().tolist(), said[way].got.flatten().tolist(), "o", color=colour, markersize=2.5, label=way)
        right.plot(names, (100 * said[way].wrong.mean(0)).tolist(), "o-", color=colour)
    left.set_title("seconds asked for, and got")
    left.legend()
    right.set_title("letters wrong (%)")
    for row, way in zip(below.subplots(len(said), len(names), squeeze=False), said, strict=True):
        for axes, sound, name in zip(row, said[way].sounds, names, strict=True):
            show(axes, sound)
            axes.set_title(f"{way}, {name}" if name == names[0] else name, fontsize=6)
