"""Masked order: how many of the tokens that are drawn together may be kept together?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level, share
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.config.sampling import SamplingConfig
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.evaluation.kernel import contributions, kernel_distance
from jielong.evaluation.retrieval import Score, candidate_columns
from jielong.evaluation.scorer import Scorer
from jielong.media.images import sheet
from jielong.system import System, load
from jielong.training.checkpoint import fingerprint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL, PICTURES, CANDIDATES = "maskgit-emoji", 160, 100
REFERENCE = 363
STEPS = (1, 2, 4, 8, 16)
SHOWN = 6


def own_caption(scores: Tensor, own: Sequence[int], candidates: int, seed: int) -> Tensor:
    """How sure the scorer is of each picture's own caption.

    Args:
        scores: ``(n, P)``, pictures against a pool of captions.
        own: Column of each picture's own caption.
        candidates: Captions each picture is shown: its own and others, the same ones whatever made the picture.
        seed: Of the others.

    Returns:
        Log-probability of the own caption under the softmax of the scores, ``(n,)``, in nats.
    """
    told = []
    for index, (row, column) in enumerate(zip(scores.double(), own, strict=True)):
        shown = torch.cat([torch.tensor([column]), candidate_columns(column, scores.shape[1], candidates, seed, index)])
        told.append(row[shown].log_softmax(0)[0])
    return torch.stack(told)


def draw_in_steps(system: System, captions: Sequence[str], steps: Sequence[int], seed: int) -> tuple[dict[int, Tensor], dict[int, float]]:
    """Pictures of the same captions and seeds in each number of steps, and seconds a picture."""
    pictures, seconds = {}, {}
    system.generate_tokens(captions, seed=seed, steps=1)  # reads the words, which are then remembered
    for count in steps:
        begun = time.perf_counter()
        pictures[count] = system.decode(system.generate_tokens(captions, seed=seed, steps=count, guidance=1.0, sampling=SamplingConfig()))
        seconds[count] = (time.perf_counter() - begun) / len(captions)
    return pictures, seconds


def judge(distance: Mapping[int, Tensor], seed: int) -> list[Check]:
    """The bounds that the claim must keep.

    Args:
        distance: Steps to each picture's contribution to the distance from real pictures, ``(n,)``, one caption's pictures at one place.
        seed: Of the resampling.
    """
    sure, steps = level(2), sorted(distance)
    doublings = torch.tensor(steps, dtype=torch.float64).log2()
    weights = (doublings - doublings.mean()) / (doublings - doublings.mean()).square().sum()
    slope = torch.stack([distance[count].double() for count in steps], dim=1) @ weights  # least squares, a line for each caption
    gain = distance[steps[0]] - distance[steps[-1]]
    return [
        Check(
            f"pictures made in {steps[-1]} steps are nearer to real ones than those made in {steps[0]}",
            bootstrap(gain, seed, sure, "kernel distance"),
            "above",
            0.0,
        ),
        Check(
            "the distance from real pictures falls as the tokens kept together are halved",
            bootstrap(slope, seed, sure, "kernel distance a halving"),
            "below",
            0.0,
        ),
    ]


class KeepOnlyAFew(Trial, name="keep-only-a-few"):
    """The shipped masked generator in few and in many steps.

    It draws from its own distribution, at temperature 1 and without guidance: both sharpen, and would make draws agree by making them dull.
    """

    claim = (
        "Tokens drawn at the same time do not know of each other: the fewer are kept at a step, the more the whole is like a real picture."
    )
    needs = (MODEL, "vq-emoji")

    def run(self, bench: Bench) -> Outcome:
        """Draw held-out captions in 1 to 16 steps, and ask the scorer."""
        system, scorer = load(MODEL, "cpu"), Scorer.load()
        heldout = open_data(system.recipe.data.set, size=system.tokenizer.media.size[0], split="heldout")
        captions = [heldout.captions[row] for row in spread(len(heldout), bench.scaled(PICTURES, 2))]
        bench.tell(f"drawing {len(captions)} captions in {', '.join(map(str, STEPS))} steps")
        pictures, seconds = draw_in_steps(system, captions, STEPS, bench.seed)
        bench.tell("asking the scorer")
        fit, hits = ask(scorer, pictures, captions, list(heldout.captions), bench.seed)
        reference = scorer.extractor.extract(heldout.media(spread(len(heldout), bench.scaled(REFERENCE, 8)))).values
        features = {count: scorer.extractor.extract(made).values for count, made in pictures.items()}
        distance = {count: contributions(each, reference) for count, each in features.items()}
        tokens = system.tokenizer.layout.positions
        own_term = kernel_distance(features[1], reference) - distance[1].mean().item()
        figures = {
            f"kernel distance, {count} steps": bootstrap(each + own_term, bench.seed, unit="kernel distance")
            for count, each in distance.items()
        }
        figures |= {f"log-probability of the own caption, {count} steps": bootstrap(fit[count], bench.seed, unit="nats") for count in STEPS}
        figures |= {f"own caption best of {CANDIDATES}, {count} steps": share(hits[count]) for count in STEPS}
        figures |= {f"time a picture, {count} steps": exact(seconds[count], "s", len(captions)) for count in STEPS}

        def draw(figure: Figure) -> None:
            _draw(figure, figures, pictures, tokens)

        model = system.generator
        return Outcome(
            judge(distance, bench.seed),
            figures,
            draw,
            (8.5, 4.2),
            {
                "model": MODEL,
                "weights_sha256": fingerprint(model) if model is not None else None,
                "sampling": system.recipe.sampling.model_dump(mode="json") | {"temperature": 1.0, "guidance": 1.0},
                "distance": "unbiased MMD, kernel (x.y/D + 1)^3, EfficientNet-lite2 features, against held-out pictures",
                "captions": {"set": heldout.name, "split": "heldout", "n": len(captions), "data_sha256": heldout.fingerprint},
                "candidates": CANDIDATES,
                "scorer_sha256": scorer.details["sha256"],
            },
            (f"tokens a picture: {tokens}; kept a step, on average: {', '.join(f'{tokens / count:g}' for count in STEPS)}",),
        )


def ask(
    scorer: Score, pictures: Mapping[int, Tensor], captions: Sequence[str], pool: Sequence[str], seed: int, candidates: int = CANDIDATES
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """How well the pictures of each number of steps fit their captions.

    Args:
        scorer: The judge.
        pictures: Steps to pictures ``(n, C, H, W)``, in the captions' order.
        captions: What each should show.
        pool: Where other captions come from.
        seed: Of the other captions.
        candidates: Captions each picture is shown.

    Returns:
        Log-probabilities of the own captions, ``(n,)`` nats, and whether each was the best, by steps.
    """
    columns = {text: column for column, text in enumerate(dict.fromkeys([*pool, *captions]))}
    own, candidates = [columns[text] for text in captions], min(candidates, len(columns))
    # One call for all: the scorer reads the captions once.
    scores = scorer(torch.cat(list(pictures.values())), list(columns)).split(len(captions))
    fit = {count: own_caption(each, own, candidates, seed) for count, each in zip(pictures, scores, strict=True)}
    best = {}
    for count, each in zip(pictures, scores, strict=True):
        rivals = [
            row[candidate_columns(column, len(columns), candidates, seed, i)] for i, (row, column) in enumerate(zip(each, own, strict=True))
        ]
        best[count] = torch.tensor([bool(row[column] > other.max()) for row, column, other in zip(each, own, rivals, strict=True)])
    return fit, best


def _draw(figure: Figure, figures: Mapping[str, Estimate], pictures: Mapping[int, Tensor], tokens: int) -> None:
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.4, 1])
    kept = [f"{tokens / count:g}" for count in STEPS]
    for axes, name, title in zip(
        left.subplots(1, 2),
        ("kernel distance, {} steps", "log-probability of the own caption, {} steps"),
        ("distance from real pictures", "fit with the words, nats"),
        strict=True,
    ):
        points = [figures[name.format(count)] for count in STEPS]
        error = [[point.value - point.low for point in points], [point.high - point.value for point in points]]
        axes.errorbar(range(len(STEPS)), [point.value for point in points], yerr=error, marker="o", capsize=3, color="#2a7")
        axes.set_xticks(range(len(STEPS)), kept)
        axes.set_xlabel(f"tokens kept together, of {tokens}")
        axes.set_title(title)
    for row, count, label in zip(right.subplots(len(STEPS), 1), STEPS, kept, strict=True):
        row.imshow(sheet(pictures[count][:SHOWN], columns=SHOWN, padding=1), interpolation="nearest")
        row.set_xticks([])
        row.set_yticks([])
        row.spines[:].set_visible(False)
        row.set_ylabel(label, rotation=0, labelpad=12, va="center")
