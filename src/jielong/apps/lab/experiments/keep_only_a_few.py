"""Quality of masked generation by the number of tokens kept per step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level, share
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.conditions.text import TEXT
from jielong.config.sampling import SamplingConfig
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.evaluation.kernel import contributions, kernel_distance
from jielong.evaluation.retrieval import Score, candidate_columns
from jielong.evaluation.scorer import Scorer
from jielong.media.images import sheet
from jielong.system import System, load
from jielong.system.inputs import gather
from jielong.training.checkpoint import fingerprint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL, PICTURES, CANDIDATES = "maskgit-emoji", 160, 100
REFERENCE = 363
STEPS = (1, 2, 4, 8, 16)
SHOWN = 6


def caption_log_probability(scores: Tensor, columns: Sequence[int], candidates: int, seed: int) -> Tensor:
    """Log-probability of each image's caption among random candidates.

    Args:
        scores: ``(n, P)``, images against a pool of captions.
        columns: Column of each image's caption.
        candidates: Candidate captions per image, with its caption; the same for any number of steps.
        seed: Seed of the candidates.

    Returns:
        ``(n,)`` nats, under the softmax of the scores.
    """
    values = []
    for index, (row, column) in enumerate(zip(scores.double(), columns, strict=True)):
        shown = torch.cat([torch.tensor([column]), candidate_columns(column, scores.shape[1], candidates, seed, index)])
        values.append(row[shown].log_softmax(0)[0])
    return torch.stack(values)


def draw_in_steps(system: System, captions: Sequence[str], steps: Sequence[int], seed: int) -> tuple[dict[int, Tensor], dict[int, float]]:
    """Images of the same captions and seeds at each number of steps, and seconds per image."""
    pictures, seconds = {}, {}
    system.check(captions)  # keeps the states of the texts
    for count in steps:
        started = time.perf_counter()
        conditions = gather(system, {TEXT.keyword: list(captions)}, None, seed).conditions
        pictures[count] = system.decode(system.generate_tokens(conditions, seed=seed, steps=count, guidance=1.0, sampling=SamplingConfig()))
        seconds[count] = (time.perf_counter() - started) / len(captions)
    return pictures, seconds


def judge(distance: Mapping[int, Tensor], seed: int) -> list[Check]:
    """Checks of the claim.

    Args:
        distance: Contribution of each image to the kernel distance, ``(n,)``, by number of steps; paired by caption.
        seed: Seed of the resampling.
    """
    confidence, steps = level(2), sorted(distance)
    doublings = torch.tensor(steps, dtype=torch.float64).log2()
    weights = (doublings - doublings.mean()) / (doublings - doublings.mean()).square().sum()
    slope = torch.stack([distance[count].double() for count in steps], dim=1) @ weights  # least squares, one line per caption
    gain = distance[steps[0]] - distance[steps[-1]]
    return [
        Check(
            f"{steps[-1]} steps: lower kernel distance than with {steps[0]}",
            bootstrap(gain, seed, confidence, "kernel distance"),
            "above",
            0.0,
        ),
        Check(
            "kernel distance decreases when the tokens kept per step are halved",
            bootstrap(slope, seed, confidence, "kernel distance per halving"),
            "below",
            0.0,
        ),
    ]


class KeepOnlyAFew(Trial, name="keep-only-a-few"):
    """The shipped masked generator at several numbers of steps, at temperature 1 and without guidance."""

    claim = "Tokens sampled in parallel are independent, so the fewer tokens are kept per step, the lower the distance from real images."
    needs = (MODEL, "vq-emoji")

    def run(self, bench: Bench) -> Outcome:
        """Generate held-out captions in 1 to 16 steps and measure distance and retrieval."""
        system, scorer = load(MODEL, "cpu"), Scorer.load()
        heldout = open_data(system.recipe.data.set, size=system.tokenizer.media.size, split="heldout")
        captions = [heldout.captions[row] for row in spread(len(heldout), bench.scaled(PICTURES, 2))]
        bench.log(f"generating {len(captions)} captions in {', '.join(map(str, STEPS))} steps")
        pictures, seconds = draw_in_steps(system, captions, STEPS, bench.seed)
        bench.log("scoring")
        fit, hits = retrieve(scorer, pictures, captions, list(heldout.captions), bench.seed)
        reference = scorer.extractor.extract(heldout.media(spread(len(heldout), bench.scaled(REFERENCE, 8)))).values
        features = {count: scorer.extractor.extract(images).values for count, images in pictures.items()}
        distance = {count: contributions(each, reference) for count, each in features.items()}
        tokens = system.tokenizer.layout.positions
        reference_term = kernel_distance(features[1], reference) - distance[1].mean().item()
        figures = {
            f"kernel distance, {count} steps": bootstrap(each + reference_term, bench.seed, unit="kernel distance")
            for count, each in distance.items()
        }
        figures |= {f"caption log-probability, {count} steps": bootstrap(fit[count], bench.seed, unit="nats") for count in STEPS}
        figures |= {f"R@1 of {CANDIDATES}, {count} steps": share(hits[count]) for count in STEPS}
        figures |= {f"time per image, {count} steps": exact(seconds[count], "s", len(captions)) for count in STEPS}

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
                "distance": "unbiased MMD, kernel (x.y/D + 1)^3, EfficientNet-lite2 features, against held-out images",
                "captions": {"set": heldout.name, "split": "heldout", "n": len(captions), "data_sha256": heldout.fingerprint},
                "candidates": CANDIDATES,
                "scorer_sha256": scorer.details["sha256"],
            },
            (f"tokens per image: {tokens}; kept per step, on average: {', '.join(f'{tokens / count:g}' for count in STEPS)}",),
        )


def retrieve(
    scorer: Score, pictures: Mapping[int, Tensor], captions: Sequence[str], pool: Sequence[str], seed: int, candidates: int = CANDIDATES
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Retrieval of captions from images, by number of steps.

    Args:
        scorer: Image-text scorer.
        pictures: Images ``(n, C, H, W)`` by number of steps, in the captions' order.
        captions: Captions of the images.
        pool: Pool of other captions.
        seed: Seed of the candidates.
        candidates: Candidate captions per image.

    Returns:
        Log-probabilities of the captions, ``(n,)`` nats, and whether each ranks first, by number of steps.
    """
    columns = {text: column for column, text in enumerate(dict.fromkeys([*pool, *captions]))}
    targets, candidates = [columns[text] for text in captions], min(candidates, len(columns))
    # One call, so that the captions are embedded once.
    scores = scorer(torch.cat(list(pictures.values())), list(columns)).split(len(captions))
    fit = {count: caption_log_probability(each, targets, candidates, seed) for count, each in zip(pictures, scores, strict=True)}
    best = {}
    for count, each in zip(pictures, scores, strict=True):
        rivals = [
            row[candidate_columns(column, len(columns), candidates, seed, i)]
            for i, (row, column) in enumerate(zip(each, targets, strict=True))
        ]
        best[count] = torch.tensor([bool(row[column] > other.max()) for row, column, other in zip(each, targets, rivals, strict=True)])
    return fit, best


def _draw(figure: Figure, figures: Mapping[str, Estimate], pictures: Mapping[int, Tensor], tokens: int) -> None:
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.4, 1])
    kept = [f"{tokens / count:g}" for count in STEPS]
    for axes, name, title in zip(
        left.subplots(1, 2),
        ("kernel distance, {} steps", "caption log-probability, {} steps"),
        ("kernel distance", "caption log-probability, nats"),
        strict=True,
    ):
        points = [figures[name.format(count)] for count in STEPS]
        error = [[point.value - point.low for point in points], [point.high - point.value for point in points]]
        axes.errorbar(range(len(STEPS)), [point.value for point in points], yerr=error, marker="o", capsize=3, color="#2a7")
        axes.set_xticks(range(len(STEPS)), kept)
        axes.set_xlabel(f"tokens kept per step, of {tokens}")
        axes.set_title(title)
    for row, count, label in zip(right.subplots(len(STEPS), 1), STEPS, kept, strict=True):
        row.imshow(sheet(pictures[count][:SHOWN], columns=SHOWN, padding=1), interpolation="nearest")
        row.set_xticks([])
        row.set_yticks([])
        row.spines[:].set_visible(False)
        row.set_ylabel(label, rotation=0, labelpad=12, va="center")
