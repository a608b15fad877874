"""Two pictures of a dog are both right: what does a head say that learns by regression, and what do the others?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jielong.apps.lab.statistics import Estimate, bootstrap, exact, level, share
from jielong.apps.lab.toy_tasks import BATCH, LR, continuous_heads, teach
from jielong.apps.lab.trial import Bench, Outcome, Trial
from jielong.apps.lab.verdict import Check
from jielong.config.registry import Part
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.heads.base import Head
from jielong.media.images import from_tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REGRESSION = "regression"
STEPS, DRAWS = 1000, 400
WIDTH, BLUR = 32, 0.1
"""Of the hidden vectors, and the standard deviation of a right answer around its middle: a tokenizer's latents have one as well."""
CAPTIONS = ("dog, Noto style", "dog, Twemoji style")
OTHERS, SIZE, SHOWN = 7, 64, 4
NEAR, MOST, EACH, TENTH = 0.25, 0.75, 0.25, 0.1
"""A draw is an answer within a quarter of the way to the other one; most draws are three quarters; each answer, of two equally right
ones, is to have a quarter at least; and ten times nearer to the truth is a tenth of regression's energy distance."""

_NETWORK = {"mlp": {"layers": 2, "width": 64}}
_SMALL: Mapping[str, Mapping[str, Any]] = {
    "gaussian_mixture": {"components": 8},
    "energy": {"layers": 2, "width": 64},
    "consistency": {"network": _NETWORK, "levels": {"last": 160}},
}
"""Settings of heads beside their networks, which are all of one size."""


@dataclass(frozen=True)
class Question:
    """What has two right answers.

    Attributes:
        name: For figures.
        answers: Their middles, ``(K, 2, C)``, a row for each hidden vector.
        hidden: ``(K, D)``: what tells a head which of the questions is asked.
    """

    name: str
    answers: Tensor
    hidden: Tensor

    @property
    def channels(self) -> int:
        """Numbers ``C`` of an answer."""
        return self.answers.shape[-1]

    def right(self, count: int) -> Tensor:
        """Right answers, ``(K, count, C)``, each of the two equally often, from torch's global generator."""
        kinds, _, channels = self.answers.shape
        which = torch.randint(2, (kinds, count, 1)).expand(-1, -1, channels)
        return self.answers.gather(1, which) + BLUR * torch.randn(kinds, count, channels)


@dataclass(frozen=True)
class Said:
    """What a head answered.

    Attributes:
        draws: ``(K, n, C)``.
        hits: Which of the two answers each draw is, ``(K, n, 2)`` bool; neither, where it lies between.
        distance: Each draw's contribution to the energy distance from right answers, ``(K n,)``.
        centred: How far the draws' mean is from the middle between the answers, as a share of the way to either; the worst of ``K``.
    """

    draws: Tensor
    hits: Tensor
    distance: Tensor
    centred: float


class LinearTokens:
    """The simplest tokenizer: every picture is one token, its place along the principal axes of a few pictures, in standard deviations.

    Args:
        pictures: ``(n, C, H, W)``; with ``n - 1`` numbers none of them loses anything.
    """

    def __init__(self, pictures: Tensor) -> None:
        self.shape = pictures.shape[1:]
        flat = pictures.flatten(1)
        self.mean = flat.mean(0)
        _, spreads, axes = torch.linalg.svd(flat - self.mean, full_matrices=False)
        self.axes = axes[:-1] * (spreads[:-1, None] / len(pictures) ** 0.5)

    def encode(self, pictures: Tensor) -> Tensor:
        """``(n, C, H, W)`` to ``(n, channels)``."""
        return (pictures.flatten(1) - self.mean) @ torch.linalg.pinv(self.axes)

    def decode(self, tokens: Tensor) -> Tensor:
        """``(n, channels)`` to ``(n, C, H, W)`` in [-1, 1]."""
        return (tokens @ self.axes + self.mean).unflatten(1, self.shape).clamp(-1, 1)


def heads(channels: int, samples: int) -> dict[str, Part]:
    """Settings of every head that can predict continuous tokens, by name, regression first.

    Args:
        channels: Numbers of a token.
        samples: Of training, for heads that pace themselves by it.
    """
    found = continuous_heads(WIDTH, channels, samples, _NETWORK, _SMALL)
    return {name: found[name] for name in sorted(found, key=lambda name: (name != REGRESSION, name))}


def train(part: Any, question: Question, steps: int, seed: int) -> Head:
    """A head that learned a question's right answers, new ones at every step."""
    return teach(part, question, steps, seed)


def judged(question: Question, draws: Tensor, seed: int) -> Said:
    """What draws ``(K, n, C)`` are worth: against the middles of the answers, and against as many right answers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        right = question.right(draws.shape[1])
    apart = (question.answers[:, 0] - question.answers[:, 1]).norm(dim=-1)
    hits = torch.cdist(draws, question.answers) < NEAR * apart[:, None, None]
    across, among = torch.cdist(draws, right).mean(2), torch.cdist(draws, draws).mean(2)
    # E = 2 mean|x - y| - mean|x - x'| - mean|y - y'|. A draw stands in the second mean twice, so that resampling moves it twice.
    own = torch.cdist(right, right).mean((1, 2))[:, None]
    distance = 2 * across - 2 * among + among.mean(1, keepdim=True) - own
    off = (draws.mean(1) - question.answers.mean(1)).norm(dim=-1) / (apart / 2)
    return Said(draws, hits, distance.flatten(), float(off.max()))


def rarer(said: Said) -> Tensor:
    """Which draws, ``(n,)`` bool, are the answer that is given least, of all questions and answers."""
    return min(said.hits.permute(0, 2, 1).flatten(0, 1), key=lambda each: int(each.sum()))


def judge(said: Mapping[str, Mapping[str, Said]], seed: int) -> list[Check]:
    """The bounds that the claim must keep.

    Args:
        said: Names of questions to names of heads to what they answered.
        seed: Of the resampling.
    """
    sure = level(sum(1 + 3 * (len(heads) - 1) for heads in said.values()))
    checks = []
    for question, answers in said.items():
        average = answers[REGRESSION]
        checks.append(
            Check(
                f"{question}: regression's answer lies amid the two, within a quarter of the way to either",
                exact(1.0 if average.draws.std(1).max() > 0 else average.centred),
                "below",
                NEAR,
            )
        )
        far = float(average.distance.mean())
        for name, each in answers.items():
            if name == REGRESSION:
                continue
            checks += [
                Check(f"{question}: most draws of {name} are one of the answers", share(each.hits.any(-1).flatten(), sure), "above", MOST),
                Check(f"{question}: each of the two is at least a quarter of them", share(rarer(each), sure), "above", EACH),
                Check(
                    f"{question}: as a distribution they are ten times nearer to the truth than regression's",
                    bootstrap(each.distance / far, seed, sure, "of regression's energy distance"),
                    "below",
                    TENTH,
                ),
            ]
    return checks


class TwoDogs(Trial, name="two-dogs"):
    """Every head of continuous tokens before two questions with two right answers: points on a plane, and pictures of a dog."""

    claim = (
        "Where two answers are right, a head that learns by regression gives their average, which is neither, and every head that learns a "
        "distribution draws both."
    )

    def run(self, bench: Bench) -> Outcome:
        """Teach each head both questions, and ask."""
        steps, draws = bench.scaled(STEPS, 2), bench.scaled(DRAWS, 8)
        images = open_data("emoji", size=SIZE)
        captions = list(images.captions)
        rows = [*map(captions.index, CAPTIONS), *spread(len(images), OTHERS)]
        tokenizer = LinearTokens(images.media(rows))
        dogs = tokenizer.encode(images.media(rows[:2]))
        generator = torch.Generator().manual_seed(bench.seed)
        hidden = torch.randn(2, WIDTH, generator=generator)
        corners = torch.tensor([[[-1.0, -1.0], [1.0, 1.0]], [[-1.0, 1.0], [1.0, -1.0]]])
        questions = [Question("points", corners, hidden), Question("dogs", dogs[None], hidden[:1])]
        said: dict[str, dict[str, Said]] = {}
        chosen: dict[str, Any] = {}
        for question in questions:
            answers = said.setdefault(question.name, {})
            for name, part in heads(question.answers.shape[-1], steps * BATCH).items():
                bench.tell(f"teaching {name} {question.name}")
                head = train(part, question, steps, bench.seed)
                asked = question.hidden[:, None].expand(-1, draws, -1)
                with torch.no_grad():
                    drawn = head.sample(asked, PerSampleRNG(bench.seed, range(len(asked))), SamplingConfig()).values
                answers[name] = judged(question, drawn, bench.seed)
                chosen[name] = part.model_dump(mode="json")[name]
        figures = {
            f"{what}, {question}, {name}": estimate
            for question, answers in said.items()
            for name, each in answers.items()
            for what, estimate in _figures(each, bench.seed).items()
        }

        def draw(figure: Figure) -> None:
            _draw(figure, questions, said, tokenizer, figures)

        return Outcome(
            judge(said, bench.seed),
            figures,
            draw,
            (11.0, 7.4),
            {
                "heads": chosen,
                "steps": steps,
                "batch": BATCH,
                "learning_rate": f"{LR}, falling to 0 in a straight line",
                "draws": draws,
                "blur": BLUR,
                "pictures": {"set": images.name, "captions": list(CAPTIONS), "data_sha256": images.fingerprint},
                "tokens": f"a whole picture is one token of {dogs.shape[-1]} numbers, along the principal axes of {len(rows)} pictures",
            },
            (
                "each head is trained once for each question: intervals are over draws, not over trainings",
                "all networks have two layers of 64 channels and the same steps of training; what they cost differs",
            ),
        )


def _figures(said: Said, seed: int) -> dict[str, Estimate]:
    return {
        "draws that are an answer": share(said.hits.any(-1).flatten()),
        "the rarer answer": share(rarer(said)),
        "energy distance": bootstrap(said.distance, seed, unit="energy distance"),
    }


def _draw(
    figure: Figure,
    questions: Sequence[Question],
    said: Mapping[str, Mapping[str, Said]],
    tokenizer: LinearTokens,
    figures: Mapping[str, Estimate],
) -> None:
    points, dogs = questions
    names = list(said[points.name])
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[3, 1])
    grid = above.subplots(1 + SHOWN, 1 + len(names), squeeze=False, height_ratios=[1.4] + [1] * SHOWN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        columns = {"right": (points.right(200), dogs.answers[0].repeat(SHOWN // 2, 1))}
    columns |= {name: (said[points.name][name].draws[:, :200], said[dogs.name][name].draws[0, :SHOWN]) for name in names}
    for column, (name, (places, tokens)) in zip(grid.T, columns.items(), strict=True):
        for each, colour in zip(places, ("#2a7", "#c73"), strict=True):
            column[0].plot(*each.T.tolist(), ".", color=colour, markersize=8 if name == REGRESSION else 2)
        column[0].set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal", xticks=[], yticks=[])
        column[0].set_title(name.replace("_", "\n"))
        for axes, picture in zip(column[1:], tokenizer.decode(tokens), strict=True):
            axes.imshow(from_tensor(picture), interpolation="nearest")
            axes.axis("off")
    for axes, question in zip(below.subplots(1, 2), questions, strict=True):
        bars = [figures[f"energy distance, {question.name}, {name}"] for name in names]
        error = [[max(0.0, bar.value - bar.low) for bar in bars], [max(0.0, bar.high - bar.value) for bar in bars]]
        colours = ["#c73" if name == REGRESSION else "#2a7" for name in names]
        axes.bar([name.replace("_", "\n") for name in names], [bar.value for bar in bars], yerr=error, color=colours, capsize=3)
        axes.set_title(f"energy distance from the truth, {question.name}")
        axes.tick_params(axis="x", labelsize=7)
