"""All heads of continuous tokens at equal training, over one trunk: quality against the evaluations that a token costs.

    python benchmarks/heads.py --checkpoint mar-emoji --out runs/heads     # trains, draws, prints the table; the same command goes on
    python benchmarks/heads.py --out runs/heads --count 128 --heads energy mean_flow diffusion
    python benchmarks/heads.py --quick                                     # a smoke run

*Training.* Condition, embedding and backbone of a trained generator are frozen, and every head learns from nothing what their hidden
vectors mean: one pass of the trunk a batch, without gradient, and then each head's own loss and step on the same positions of the same
pictures. Optimizer, rate and average of the weights are those that the checkpoint's recipe gave its head (AdamW, also where the recipe says
Muon, which leaves heads to it). All networks have the recipe's layers and width. A regression and a mixture are linear maps in this
project; here a residual network of that size stands before them. Diffusion is taught anew like the rest. What freezing means: the trunk
was taught by a diffusion head, so if its hidden vectors suit any head best, it is diffusion; and none can shape the trunk to its needs.

*Drawing.* Guidance scale and temperature of each head are chosen on captions of the training split (the scale at temperature 1, then the
temperature at that scale, by the Frechet distance to those captions' pictures, at the head's usual number of evaluations), and used for
all its rows. What is reported comes from held-out captions, one picture each, with the same seeds for all rows. The Frechet distance has
fewer pictures than features: compare it within one table alone. Evaluations are those of the head's network a token; guided, each is of
both halves. The held-out loss of mean_flow and shortcut is flow matching's, that of consistency on the finest grid: not to be compared
with other heads'. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from quick import scratch, trained
from torch import Tensor, nn

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.data.order import spread
from jielong.data.sets import Batch, MediaSet
from jielong.evaluation.features import FeatureExtractor, FeatureSet
from jielong.evaluation.frechet import SmallSampleWarning, frechet
from jielong.evaluation.provenance import machine
from jielong.evaluation.retrieval import retrieval_at_1
from jielong.evaluation.scorer import Scorer, ScorerError
from jielong.generation.state import TrainingStates
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, SampleOutput
from jielong.heads.consistency import Consistency, Levels
from jielong.heads.diffusion import Diffusion
from jielong.heads.energy import Energy
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.gaussian_mixture import GaussianMixture
from jielong.heads.mean_flow import MeanFlow
from jielong.heads.regression import Regression
from jielong.heads.shortcut import Shortcut
from jielong.media.images import sheet, write_bytes, write_image
from jielong.networks.denoiser import MLP, NetworkSettings
from jielong.system import System, load
from jielong.training import token_cache as cache
from jielong.training.checkpoint import load_weights
from jielong.training.experiment import Experiment, TrainingStream, prepare
from jielong.training.objective import Losses, Objective, StepRNG
from jielong.training.settings import TrainSettings
from jielong.training.trainer import train

EVALUATIONS: dict[str, tuple[int, ...]] = {
    "diffusion": (100, 50, 25, 10, 4, 2, 1),
    "flow_matching": (50, 20, 8, 4, 2, 1),
    "mean_flow": (4, 2, 1),
    "shortcut": (8, 4, 2, 1),
    "consistency": (2, 1),
    "energy": (1,),
    "gaussian_mixture": (1,),
    "regression": (1,),
}
"""The heads, and how many evaluations a token each is asked for; the last three have no choice."""
BATCH, SHOWN, CANDIDATES = 64, 8, 100


@dataclass(frozen=True)
class TrainingTargets:
    """What a head that is not joint learns from a batch.

    Attributes:
        hidden: Hidden vectors of the predicted positions, ``(M, D)``.
        targets: Their tokens, ``(M, C)``.
        weights: Weight of each in its item's loss, ``(M,)``.
    """

    hidden: Tensor
    targets: Tensor
    weights: Tensor


def targets_of(states: TrainingStates) -> TrainingTargets:
    """The predicted positions of a batch, without gradients of the hidden vectors."""
    mask = states.loss_mask
    return TrainingTargets(states.hidden[mask].detach(), states.targets[mask], states.weights[mask])


class Deepened(Head):
    """A head behind a residual network, which an untrained one is not noticed to have: it reads ``hidden + network(hidden)``."""

    def __init__(self, head: Head, network: nn.Module) -> None:
        super().__init__()
        self.head, self.network, self.discrete = head, network, head.discrete

    def deepened(self, hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, -2)
        return hidden + self.network(rows, None, rows).view_as(hidden)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        return self.head.loss(self.deepened(hidden), targets, context)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        self.head.check_sampling(sampling)

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        null = None if context.null is None else self.deepened(context.null)
        return self.head.sample(self.deepened(hidden), rng, sampling, replace(context, null=null))


def made(names: Sequence[str], experiment: Experiment, samples: int, draws: int) -> dict[str, Head]:
    """Untrained heads, all over the recipe's network."""
    generator = experiment.generator
    assert generator is not None
    width, layout, own = generator.backbone.width, generator.layout, experiment.recipe.head
    network: NetworkSettings = getattr(own, "network", MLP())
    size = {"layers": getattr(network, "layers", 3), "width": getattr(network, "width", 256)}
    iterative: dict[str, Any] = {"network": network, "diffusion_batch_mul": draws}
    diffusion = own.model_copy(update={"diffusion_batch_mul": draws}) if isinstance(own, Diffusion) else Diffusion(**iterative)
    parts: dict[str, Any] = {
        "diffusion": diffusion,
        "flow_matching": FlowMatching(**iterative),
        "mean_flow": MeanFlow(**iterative),
        "shortcut": Shortcut(**iterative, steps=4),
        "consistency": Consistency(**iterative, levels=Levels(samples=samples)),
        "energy": Energy(**size),
        "gaussian_mixture": GaussianMixture(),
        "regression": Regression(),
    }
    heads: dict[str, Head] = {}
    for name in names:
        torch.manual_seed(0)
        head: Head = parts[name].build(width, layout)
        if name in ("gaussian_mixture", "regression"):
            head = Deepened(head, network.build(inputs=width, outputs=width, hidden=width, times=0))
        heads[name] = head
    return heads


class Lessons(Objective[nn.ModuleDict]):
    """A phase a head: each has its own gradient, clipped by itself, on the hidden vectors that all are shown.

    Args:
        heads: To be taught.
        ask: What the trunk makes of a batch.
        tokens: Positions of a picture that are learned from, at most.
    """

    def __init__(self, heads: dict[str, Head], ask: Callable[[Batch, PerSampleRNG], TrainingTargets], tokens: int) -> None:
        super().__init__()
        self.model, self._ask, self.tokens = nn.ModuleDict(heads), ask, tokens
        self._asked: tuple[int, TrainingTargets] | None = None

    @property
    def phases(self) -> dict[str, nn.Module]:
        return dict(self.model.items())

    def forward(self, batch: Batch, phase: str, samples_seen: int, rng: StepRNG) -> Losses:
        if self._asked is None or self._asked[0] != samples_seen:
            self._asked = samples_seen, self._some(self._ask(batch, rng.per_sample), len(batch) * self.tokens)
        asked, head = self._asked[1], self.model[phase]
        torch.manual_seed(samples_seen)  # so that a head learns the same whatever is taught beside it
        head.on_train_step(samples_seen)
        loss = (head.loss(asked.hidden, asked.targets) * asked.weights).sum() / asked.weights.sum()
        return Losses(loss, {phase: loss.detach()})

    def _some(self, asked: TrainingTargets, most: int) -> TrainingTargets:
        rows = torch.randperm(len(asked.hidden))[:most].to(asked.hidden.device)
        return TrainingTargets(asked.hidden[rows], asked.targets[rows], asked.weights[rows])

    def forget(self) -> None:
        """Ask the trunk again, though it may be the same batch."""
        self._asked = None

    def samples(self, model: nn.Module) -> None:
        return None

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class Way:
    """How a head draws."""

    guidance: float
    temperature: float


class Trunk:
    """A trained generator without its head: what it makes of pictures, and what it draws with another head."""

    def __init__(self, experiment: Experiment, system: System) -> None:
        assert system.generator is not None
        self.recipe, self.system, self.generator = experiment.recipe, system, system.generator
        self.heldout, self.images = experiment.heldout, experiment.data
        if self.generator.condition is not None:
            self.generator.condition.precompute(self.images, self.heldout)

    def raw(self, batch: Batch) -> Any:
        return None if self.recipe.condition is None else self.recipe.condition.from_batch(batch, self.system.tokenizer.media)

    @torch.no_grad()
    def ask(self, batch: Batch, rng: PerSampleRNG, learning: bool = True) -> TrainingTargets:
        """Hidden vectors of a batch, without dropout; in training some conditions are dropped, which guidance needs."""
        tokenizer, generator = self.system.tokenizer, self.generator.eval()
        kept = tokenizer.encode_to_cache(batch.media) if batch.tokens is None else Tokens(batch.tokens, tokenizer.cached_layout)
        prepared = None if generator.condition is None else generator.condition.prepare(self.raw(batch))
        generator.training = learning  # of the generator itself, not of what it holds: it asks whether to drop conditions
        return targets_of(generator.training_states(tokenizer.sample_cached(kept, rng), prepared, rng))

    @torch.no_grad()
    def heldout_losses(self, heads: nn.ModuleDict, count: int) -> dict[str, float]:
        """Mean loss of each head on held-out pictures, with the same masks for all."""
        rows = spread(len(self.heldout), count)
        totals = dict.fromkeys(heads, 0.0)
        for first in range(0, len(rows), BATCH):
            part = rows[first : first + BATCH]
            asked = self.ask(self.heldout.batch(part), PerSampleRNG(0, range(first, first + len(part))), learning=False)
            for name, head in heads.items():
                torch.manual_seed(first)
                totals[name] += float((head.eval().loss(asked.hidden, asked.targets) * asked.weights).sum())
        return {name: total / len(rows) for name, total in totals.items()}

    def draw(self, head: Head, conditions: Sequence[Any], way: Way, evaluations: int | None) -> tuple[Tensor, float]:
        """Pictures, and seconds a picture to draw their tokens."""
        own, given = self.recipe.sampling, conditions[0] is not None
        self.generator.eval().head = head
        changes = {
            "temperature": way.temperature,
            "num_inference_steps": evaluations if head.iterative else None,
            "final_inference_steps": None,
            "guidance": own.guidance.model_copy(update={"scale": way.guidance}),
        }
        sampling = own.model_copy(update=changes)
        begun = time.perf_counter()
        tokens = self.generator.generate(
            list(conditions) if given else None,
            None if given else len(conditions),
            sampling=sampling if given else sampling.unconditional(),
            batch=BATCH,
        )
        seconds = (time.perf_counter() - begun) / len(conditions)
        return self.system.decode(tokens), seconds

    def conditions(self, images: MediaSet, places: Sequence[int]) -> list[Any]:
        told = self.raw(images.batch(list(places)))
        return [None] * len(places) if told is None else list(told)


class Metric:
    """Figures of pictures, and how each head is best drawn with."""

    def __init__(self, trunk: Trunk, count: int, chosen: int) -> None:
        self.trunk, self.extractor = trunk, FeatureExtractor()
        self.places = spread(len(trunk.heldout), min(count, len(trunk.heldout)))
        self.real = self.features(trunk.heldout, self.places)
        self.tried = spread(len(trunk.images), chosen)
        self.like = self.features(trunk.images, self.tried)
        self.scorer: Scorer | None = None
        captions = trunk.heldout.captions
        if trunk.system.inputs == ("text",) and len(set(captions)) >= CANDIDATES:
            try:
                self.scorer = Scorer.load(None, self.extractor)
            except ScorerError as error:
                print(f"no retrieval: {error}")

    def features(self, images: MediaSet, places: Sequence[int]) -> FeatureSet:
        return self.extractor.extract(images.media(list(places)))

    def frechet(self, pictures: Tensor, real: FeatureSet) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SmallSampleWarning)
            return frechet(pictures, real, self.extractor).value

    def choose(self, head: Head, guidance: Sequence[float], temperatures: Sequence[float]) -> tuple[Way, list[dict[str, float]]]:
        """The best of a few scales, then of a few temperatures, on captions that are not reported; and what each came to."""
        told = self.trunk.conditions(self.trunk.images, self.tried)
        tried: dict[Way, float] = {}

        def best(ways: Sequence[Way]) -> Way:
            for way in ways:
                if way not in tried:
                    tried[way] = self.frechet(self.trunk.draw(head, told, way, None)[0], self.like)
            return min(ways, key=tried.__getitem__)

        scales = guidance if told[0] is not None else (1.0,)
        first = best([Way(scale, 1.0) for scale in scales])
        try:
            head.check_sampling(SamplingConfig(temperature=0.5))
        except ValueError:  # it has none
            temperatures = ()
        way = best([first, *(replace(first, temperature=each) for each in temperatures)])
        return way, [{**asdict(each), "frechet": value} for each, value in tried.items()]

    def row(self, head: Head, way: Way, evaluations: int) -> tuple[dict[str, Any], Tensor]:
        """The figures of one number of evaluations, and the first pictures."""
        told = self.trunk.conditions(self.trunk.heldout, self.places)
        pictures, seconds = self.trunk.draw(head, told, way, evaluations)
        found: dict[str, Any] = {"evaluations": evaluations, "frechet": self.frechet(pictures, self.real), "count": len(pictures)}
        if self.scorer is not None:
            pool = [str(caption) for caption in self.trunk.heldout.captions]
            found["retrieval_at_1"] = retrieval_at_1(pictures, told, pool, CANDIDATES, scorer=self.scorer).value
        return found | {"seconds_a_picture": seconds}, pictures[:: max(1, len(pictures) // SHOWN)][:SHOWN]


def judged(judge: Metric, name: str, head: Head, arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """All figures of a head: those in the folder, if they were made under the same settings, or made now and written there."""
    path = arguments.out / f"{name}.json"
    if path.exists() and (kept := json.loads(path.read_text()))["settings"] == settings:
        return kept
    way, tried = judge.choose(head, arguments.guidance, arguments.temperatures)
    rows, strips = [], []
    for evaluations in EVALUATIONS[name][-arguments.rows :]:
        row, strip = judge.row(head, way, evaluations)
        print(f"  {name}, {evaluations}: {told(row)}", flush=True)
        rows.append(row)
        strips.append(strip)
    write_image(arguments.out / f"{name}.png", sheet(torch.cat(strips), columns=len(strips[0])))
    found = {"head": name, **asdict(way), "tried": tried, "rows": rows, "settings": settings}
    write_bytes(path, json.dumps(found, indent=1).encode())
    return found


def told(row: dict[str, Any]) -> str:
    retrieval = f", retrieval {100 * row['retrieval_at_1']:.1f} %" if "retrieval_at_1" in row else ""
    return f"Frechet {row['frechet']:.1f} of {row['count']}{retrieval}, {row['seconds_a_picture']:.3f} s a picture"


def estimate(trunk: Trunk, lessons: Lessons, stream: TrainingStream, settings: TrainSettings, arguments: argparse.Namespace) -> None:
    """Say about how long all will take, from one step of training and one small batch of pictures."""
    begun = time.perf_counter()
    batch = stream.batch(0, settings.batch)
    for phase in lessons.phases:
        lessons(batch, phase, 0, StepRNG(PerSampleRNG(0, range(settings.batch)), torch.Generator())).total.backward()
    lessons.zero_grad()
    lessons.forget()
    learning = (time.perf_counter() - begun) * settings.samples / settings.batch
    rows = [(head, count) for name, head in lessons.model.items() for count in EVALUATIONS[name][-arguments.rows :]]
    head = next((head for head in lessons.model.values() if head.iterative), next(iter(lessons.model.values())))
    conditions = trunk.conditions(trunk.heldout, spread(len(trunk.heldout), 16))
    short, long = (trunk.draw(head, conditions, Way(3.0, 1.0), count)[1] for count in (1, 21))
    an_evaluation = (long - short) / 20 if head.iterative else 0.0
    each = sum(short + count * an_evaluation for _, count in rows) * min(arguments.count, len(trunk.heldout))
    tried = len(arguments.guidance) + len(arguments.temperatures)
    trying = sum(short + getattr(head, "steps", 1) * an_evaluation for head in lessons.model.values()) * tried * arguments.choose
    print(
        f"about {learning / 60:.0f} minutes to train {len(lessons.phases)} heads, {trying / 60:.0f} to choose how they draw, "
        f"{each / 60:.0f} to draw {len(rows)} rows; features and scores come on top",
        flush=True,
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="mar-emoji", help="a generator of continuous tokens; its trunk is used")
    parser.add_argument("--out", type=Path, default=Path("runs/heads"), help="heads, figures and sheets; the same command goes on from it")
    parser.add_argument("--heads", nargs="+", choices=list(EVALUATIONS), default=list(EVALUATIONS))
    parser.add_argument("--samples", type=int, default=60_000, help="pictures that each head is trained on")
    parser.add_argument("--tokens", type=int, default=32, help="positions of a picture that are learned from, at most")
    parser.add_argument("--draws", type=int, default=1, help="noisy copies of a token, where a head takes several")
    parser.add_argument("--lr", type=float, default=None, help="peak learning rate; the recipe's by default")
    parser.add_argument("--count", type=int, default=1_000_000, help="held-out captions; all by default")
    parser.add_argument("--choose", type=int, default=48, help="captions of the training split by which scale and temperature are chosen")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.5, 3.0, 5.0], help="scales to choose from")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.9, 0.8], help="to choose from, beside 1")
    parser.add_argument("--rows", type=int, default=7, help="numbers of evaluations of a head at most, from the fewest up")
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; all by default")
    parser.add_argument("--quick", action="store_true", help="small numbers, and a checkpoint made for it: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.samples, arguments.tokens, arguments.count, arguments.choose, arguments.rows = 16, 8, 4, 2, 2
        arguments.guidance, arguments.temperatures = [3.0], []
        arguments.checkpoint, arguments.out = trained("mar-tiny", tokenizer=trained("kl-tiny")), scratch() / "heads"
    return arguments


def main() -> None:
    arguments = parsed()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    system = load(arguments.checkpoint, "cpu")
    if system.generator is None or system.generator.layout.discrete:
        raise SystemExit(f"--checkpoint takes a generator of continuous tokens, such as mar-emoji, not {arguments.checkpoint}")
    recipe = system.recipe
    train_settings = recipe.train.model_copy(
        update={
            "samples": arguments.samples,
            "optimizer": "adamw",
            "lr": arguments.lr or recipe.train.lr,
            "warmup": arguments.samples // 25,
            "micro_batch": None,
        }
    )
    experiment = prepare(recipe)
    trunk = Trunk(experiment, system)
    heads = made(arguments.heads, experiment, arguments.samples, arguments.draws)
    lessons = Lessons(heads, trunk.ask, arguments.tokens)
    stream = TrainingStream(experiment.data, train_settings.seed, cache.cached(system.tokenizer, experiment.data))
    sizes = {name: sum(parameter.numel() for parameter in head.parameters()) for name, head in heads.items()}
    print(f"{arguments.checkpoint}: {system.generator.layout.positions} tokens of {system.generator.layout.channels}; {machine()}")
    estimate(trunk, lessons, stream, train_settings, arguments)
    what = {name: getattr(arguments, name) for name in ("checkpoint", "heads", "tokens", "draws")}
    run = {**what, "train": train_settings.model_dump(mode="json")}
    summary = train(lessons, stream, train_settings, arguments.out, recipe_yaml=json.dumps(run, indent=1), device="cpu", evaluate=False)
    if not summary.finished:
        raise SystemExit("stopped; the same command goes on")
    load_weights(lessons.model, arguments.out)
    taught = lessons.model.eval().requires_grad_(False)
    heldout = trunk.heldout_losses(taught, min(arguments.count, len(trunk.heldout)))
    judge = Metric(trunk, arguments.count, arguments.choose)
    how = {name: getattr(arguments, name) for name in ("count", "choose", "guidance", "temperatures", "rows")}
    results = []
    for name, head in taught.items():
        found = judged(judge, name, head, arguments, {**run, **how})
        losses = {"loss": summary.metrics.get(name), "heldout_loss": heldout[name], "parameters": sizes[name]}
        results.append({key: value for key, value in found.items() if key != "settings"} | losses)
    show(results)
    print(json.dumps({"machine": machine(), "settings": run | how, "training_seconds": summary.seconds, "heads": results}))


def show(results: Sequence[dict[str, Any]]) -> None:
    print(
        f"\n  {'head':<18} {'evaluations':>11} {'Frechet':>9} {'(count)':>8} {'retrieval@1':>12} {'s a picture':>12} "
        f"{'scale':>6} {'temperature':>12} {'loss':>8} {'held-out':>9}"
    )
    for head in results:
        for row in head["rows"]:
            retrieval = f"{100 * row['retrieval_at_1']:.1f} %" if "retrieval_at_1" in row else "-"
            print(
                f"  {head['head']:<18} {row['evaluations']:>11} {row['frechet']:>9.1f} {row['count']:>8} {retrieval:>12} "
                f"{row['seconds_a_picture']:>12.4f} {head['guidance']:>6.1f} {head['temperature']:>12.1f} {head['loss']:>8.3f} "
                f"{head['heldout_loss']:>9.3f}"
            )


if __name__ == "__main__":
    main()
