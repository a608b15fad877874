"""Which figures apply to a system, measured on the held-out split, each with how it was made.

A tokenizer is asked to give pictures back (``psnr``, ``ssim``) and to use its codes (``codebook_usage``). A generator is asked for one
picture for each held-out caption or class: ``frechet`` compares them with the real held-out pictures, ``retrieval_at_1`` asks a scorer
whether each fits its own caption, and ``retrieval_at_1_real`` is what real pictures get. One that draws pixels one after the other is asked
how likely it finds the real pictures, ``bits_per_dimension``; one that draws vectors so, by a density, ``nats_per_token``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from jielong.conditions.base import ConditionSettings
from jielong.data.opening import MediaSet
from jielong.data.order import spread
from jielong.data.sounds import AudioSet
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.frechet import frechet
from jielong.evaluation.likelihood import bits_per_dimension, nats_per_token, no_density, no_likelihood
from jielong.evaluation.provenance import Measurement, picture_hash, versions
from jielong.evaluation.reconstruction import perceptual_distance, psnr, ssim
from jielong.evaluation.retrieval import retrieval_at_1
from jielong.evaluation.scorer import Scorer, ScorerError
from jielong.evaluation.sound.waveform import bitrate, mel_distance, si_sdr, stft_distance
from jielong.guidance import Guidance
from jielong.heads.base import Sharpness
from jielong.networks.efficientnet import WeightsError
from jielong.system import System, open_media
from jielong.tokens import Tokens
from jielong.training.checkpoint import fingerprint

CANDIDATES = 100
"""Captions that a picture is shown with, in retrieval."""
BATCH = 64

Progress = Callable[[str, int, int], None]
"""What is being done, how many items are done, and how many there are."""


@dataclass(frozen=True)
class Draws:
    """How pictures are drawn for an evaluation; ``None`` is the recipe's own setting."""

    seed: int = 0
    steps: int | None = None
    guidance: Guidance | float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    head_steps: int | None = None
    late_head_steps: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        figures: The measurements that apply, by name.
        omitted: Those that do not, and why.
        seconds: Wall time of all of it.
        provenance: What all figures share: model, data, draws, versions.
    """

    figures: dict[str, Measurement]
    omitted: dict[str, str]
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One flat object of figures, with ``seconds`` and ``provenance`` (each figure's own under its name)."""
        values: dict[str, Any] = {name: measured.value for name, measured in self.figures.items()}
        details = {name: {"n": measured.n, **measured.details} for name, measured in self.figures.items()}
        return values | {"seconds": round(self.seconds, 2), "provenance": self.provenance | {"figures": details, "omitted": self.omitted}}


def evaluate(
    system: System,
    data: str | None = None,
    count: int | None = None,
    draws: Draws | None = None,
    candidates: int = CANDIDATES,
    scorer: Scorer | None = None,
    progress: Progress | None = None,
    perception: bool = False,
) -> Evaluation:
    """Measure a system on the held-out split of a set.

    Args:
        system: A tokenizer or a generator.
        data: A set's name or a path; the recipe's own by default.
        count: How many held-out items, evenly spread; all by default.
        draws: How a generator draws.
        candidates: Captions to choose from in retrieval.
        scorer: The judge of retrieval; the shipped one by default, which applies to the set it was trained on only.
        progress: Told how far it is.
        perception: For a tokenizer, also what a network sees of its reconstructions: ``perceptual`` and ``frechet``.

    Raises:
        jielong.data.source.DataError: if the set cannot be opened.
        ValueError: if the set lacks the captions or classes that the generator was trained on.
    """
    begun = time.perf_counter()
    draws = draws or Draws()
    media = system.tokenizer.media
    images = open_media(data or system.recipe.data.set, media, "heldout", system.generator is not None, system.recipe.data.level)
    rows = spread(len(images), count)
    report = progress or (lambda what, done, total: None)
    real = _real(images, rows, report)
    provenance = _provenance(system, images, rows, real)
    if isinstance(images, AudioSet):
        if system.generator is not None:
            raise ValueError(f"{system.name} generates sound, and `evaluate` measures tokenizers of sound only so far")
        figures, omitted = _sound_tokenizer(system, images, rows, real, report)
    elif system.generator is None:
        figures, omitted = _tokenizer(system, real, report, perception)
    else:
        provenance["draws"] = _drawing(system, draws)
        figures, omitted, seconds = _generator(system, images, rows, real, draws, candidates, scorer, report)
        provenance["draws"]["seconds_per_picture"] = round(seconds / len(rows), 4)
    return Evaluation(figures, omitted, time.perf_counter() - begun, provenance)


def _real(images: MediaSet, rows: list[int], report: Progress) -> Tensor:
    parts = []
    for first in range(0, len(rows), BATCH):
        parts.append(images.media(rows[first : first + BATCH]))
        report("reading", min(first + BATCH, len(rows)), len(rows))
    return torch.cat(parts)


def _provenance(system: System, images: MediaSet, rows: list[int], real: Tensor) -> dict[str, Any]:
    model = system.generator or system.tokenizer
    average = system.recipe.train.ema
    made_of: dict[str, Any] = {
        "model": system.name,
        "weights": f"average over training (EMA {average})" if average else "raw",
        "weights_sha256": fingerprint(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "reference": {
            "set": images.name,
            "split": "heldout",
            "n": len(rows),
            "of": len(images),
            "data_sha256": images.fingerprint,
            "pictures_sha256": picture_hash(real),
            "size": list(real.shape[1:]),
            "replaced_broken": sorted(images.keys[index] for index in images.stand_ins),
        },
        "versions": versions(),
        "device": str(next(model.parameters()).device),
    }
    if system.generator is not None:
        made_of["tokenizer_sha256"] = fingerprint(system.tokenizer)
    return made_of


# --- a tokenizer ----------------------------------------------------------------------------------------------------------------------


def _tokenizer(system: System, real: Tensor, report: Progress, perception: bool) -> tuple[dict[str, Measurement], dict[str, str]]:
    codes, rebuilt = [], []
    for part in real.split(BATCH):
        tokens = system.encode(part)
        codes.append(tokens.values.cpu())
        rebuilt.append(system.decode(tokens))
        report("reconstructing", sum(map(len, codes)), len(real))
    pictures = torch.cat(rebuilt)
    figures, omitted = {"psnr": psnr(pictures, real)}, {}
    try:
        figures["ssim"] = ssim(pictures, real)
    except ImportError:
        omitted["ssim"] = "torchmetrics is not installed: pip install 'jielong[evaluate]'"
    except (RuntimeError, ValueError) as error:
        omitted["ssim"] = f"pictures of {real.shape[-1]} pixels are too small for its window ({error})"
    if system.tokenizer.layout.discrete:
        figures["codebook_usage"] = codebook_usage(Tokens(torch.cat(codes), system.tokenizer.layout))
    else:
        omitted["codebook_usage"] = "the tokens are continuous"
    device = next((parameter.device for parameter in system.tokenizer.parameters()), torch.device("cpu"))
    left = [system.tokenizer.residuals(part.to(device)) for part in real.split(BATCH)]
    if all(each is not None for each in left):
        weights = [len(part) / len(real) for part in real.split(BATCH)]
        after = sum(weight * each.double().cpu() for weight, each in zip(weights, left, strict=True) if each is not None)
        shares = torch.as_tensor(after).tolist()
        protocol = "share of the squared feature map that is left after each scale or level, coarse to fine"
        figures["residual"] = Measurement("residual", shares[-1], len(real), {"after": shares, "protocol": protocol})
    if perception:
        seen, unseen = _seen(pictures, real, report)
        figures, omitted = figures | seen, omitted | unseen
    return figures, omitted


def _sound_tokenizer(
    system: System, sounds: AudioSet, rows: list[int], real: Tensor, report: Progress
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """What comes back of sound, in each clip as far as it goes, and what it costs."""
    codes: list[Tensor] = []
    made: list[Tensor] = []
    heard: list[Tensor] = []
    lengths = [sounds.length(row) for row in rows]
    for part in real.split(BATCH):
        tokens = system.encode(part)
        codes.append(tokens.values.cpu())
        first = len(made)
        made += [clip[:, :length] for clip, length in zip(system.decode(tokens), lengths[first:], strict=False)]
        heard += [clip[:, :length] for clip, length in zip(part, lengths[first:], strict=False)]
        report("reconstructing", len(made), len(real))
    figures = {each.__name__: each(made, heard, sounds.rate) for each in (mel_distance, si_sdr, stft_distance)}
    layout, reason = system.tokenizer.layout, "the tokens are continuous"
    if not layout.discrete:
        return figures, {"bitrate": reason, "codebook_usage": reason}
    figures["bitrate"] = bitrate(layout, sounds.samples / sounds.rate)
    figures["codebook_usage"] = codebook_usage(Tokens(torch.cat(codes), layout))
    return figures, {}


def _seen(pictures: Tensor, real: Tensor, report: Progress) -> tuple[dict[str, Measurement], dict[str, str]]:
    """What a network sees of reconstructions."""
    report("perception", 0, 2)
    try:
        extractor = FeatureExtractor()
        figures = {"perceptual": perceptual_distance(pictures, real, extractor)}
        report("perception", 1, 2)
        if len(real) < 2:
            return figures, {"frechet": "it needs at least two pictures"}
        figures["frechet"] = frechet(pictures, real, extractor)
    except (ImportError, WeightsError) as error:
        reason = f"{error}; pip install 'jielong[evaluate]'" if isinstance(error, ImportError) else str(error)
        return {}, {"perceptual": reason, "frechet": reason}
    report("perception", 2, 2)
    return figures, {}


def codebook_usage(tokens: Tokens) -> Measurement:
    """Share of codes that occur at least once in tokens ``(B, N, K)``, averaged over codebooks; perplexity, and each scale, in the details.

    Raises:
        ValueError: if the tokens are continuous.
    """
    codes = tokens.layout.vocabulary
    if codes is None:
        raise ValueError("continuous tokens have no codebook to use")
    counts = torch.stack([torch.bincount(each.flatten(), minlength=codes) for each in tokens.values.unbind(-1)]).double()
    shares = counts / counts.sum(1, keepdim=True)
    perplexity = torch.special.entr(shares).sum(1).exp()
    details: dict[str, Any] = {
        "codes": codes,
        "codebooks": tokens.layout.channels,
        "assignments": int(counts[0].sum()),
        "perplexity": perplexity.mean().item(),
    }
    if tokens.layout.scales:
        sizes = [math.prod(scale) for scale in tokens.layout.scales]
        parts = zip(tokens.layout.scales, tokens.values.split(sizes, dim=1), strict=True)
        details["scales"] = {"x".join(map(str, scale)): part.unique().numel() / codes for scale, part in parts}
    if counts[0].sum() < 8 * codes:
        details["warning"] = "small sample: fewer than eight assignments a code, so codes in use may not have occurred"
    return Measurement("codebook_usage", (counts > 0).double().mean().item(), len(tokens), details)


# --- a generator ----------------------------------------------------------------------------------------------------------------------


def _drawing(system: System, draws: Draws) -> dict[str, Any]:
    """The sampling settings in force, with the recipe's own where nothing else was said."""
    own, sharpness = system.recipe.sampling, _sharpness(system, draws)
    guidance = _guidance(system, draws)
    evaluations = sharpness.head_steps or getattr(system.generator and system.generator.head, "steps", None)
    return {
        "seed": draws.seed,
        "steps": own.steps if draws.steps is None else draws.steps,
        "order": system.recipe.order.model_dump(mode="json") if system.recipe.order is not None else None,
        "guidance": guidance.model_dump(mode="json"),
        **{name: value for name, value in (asdict(sharpness) | {"head_steps": evaluations}).items() if value is not None},
        **{name: option for name, option in own.model_dump(mode="json", include=set(own.speed)).items() if option is not None},
        "pictures": "one a held-out caption or class, picture i from (seed, i)",
    }


def _sharpness(system: System, draws: Draws) -> Sharpness:
    return system.sharpness(**{field.name: getattr(draws, field.name) for field in fields(Sharpness)})


def _guidance(system: System, draws: Draws) -> Guidance:
    if draws.guidance is not None:
        return draws.guidance if isinstance(draws.guidance, Guidance) else Guidance(scale=draws.guidance)
    return system.recipe.sampling.guidance if system.condition_kind is not None else Guidance()


def _conditions(system: System, images: MediaSet, rows: list[int]) -> list[Any] | None:
    """The held-out captions or classes, as the generator takes them."""
    kind = system.condition_kind
    if kind is None:
        return None
    if kind == "text":
        if not images.has_captions or not all(images.captions[row] for row in rows):
            raise ValueError(f"{system.name} is told captions, but {images.name} lacks some: choose a set with captions, with --data")
        return [images.captions[row] for row in rows]
    if kind != "class" and isinstance(system.recipe.condition, ConditionSettings):
        told: list[Any] = system.recipe.condition.raw(images.batch(rows), getattr(images, "rate", None))
        return told
    labels = [images.labels[row] for row in rows]
    if any(label is None for label in labels):
        raise ValueError(f"{system.name} is told a class, but {images.name} has pictures without one: choose another set, with --data")
    return [images.classes[label] for label in labels if label is not None]


def _generate(system: System, conditions: list[Any] | None, count: int, draws: Draws, report: Progress) -> Tensor:
    done = 0

    def tick(moment: Any) -> None:
        # A batch's last step makes its last tokens known.
        nonlocal done
        if bool(moment.known.all()):
            done += len(moment.known)
            report("generating", done, count)

    tokens = system.generate_tokens(
        conditions,
        count,
        seed=draws.seed,
        steps=draws.steps,
        guidance=_guidance(system, draws),
        sharpness=_sharpness(system, draws),
        batch=BATCH,
        watch=tick,
    )
    return system.decode(tokens)


def _generator(
    system: System,
    images: MediaSet,
    rows: list[int],
    real: Tensor,
    draws: Draws,
    candidates: int,
    scorer: Scorer | None,
    report: Progress,
) -> tuple[dict[str, Measurement], dict[str, str], float]:
    conditions = _conditions(system, images, rows)
    begun = time.perf_counter()
    made = _generate(system, conditions, len(rows), draws, report)
    seconds = time.perf_counter() - begun
    figures: dict[str, Measurement] = {}
    omitted: dict[str, str] = {}
    unlikely = no_likelihood(system)
    if unlikely is None:
        report("likelihood", 0, 1)
        figures["bits_per_dimension"] = bits_per_dimension(system, real, conditions, BATCH)
        report("likelihood", 1, 1)
    else:
        omitted["bits_per_dimension"] = unlikely
    dense = no_density(system)
    if dense is None:
        report("density", 0, 1)
        figures["nats_per_token"] = nats_per_token(system, real, conditions, BATCH)
        report("density", 1, 1)
    elif not system.tokenizer.layout.discrete:
        omitted["nats_per_token"] = dense
    try:
        extractor = scorer.extractor if scorer is not None else FeatureExtractor()
        report("frechet", 0, 1)
        if len(rows) < 2:
            omitted["frechet"] = "it needs at least two pictures"
        else:
            figures["frechet"] = frechet(made, real, extractor)
        report("frechet", 1, 1)
    except (ImportError, WeightsError) as error:
        omitted["frechet"] = f"{error}; pip install 'jielong[evaluate]'" if isinstance(error, ImportError) else str(error)
    try:
        reason = _no_retrieval(system, images, candidates)
        judge = scorer or Scorer.load() if reason is None else None
        if judge is not None and scorer is None and judge.details.get("data") != images.name:
            reason, judge = f"the scorer was trained on {judge.details.get('data')}, not on {images.name}", None
    except (ImportError, WeightsError, ScorerError, ValueError) as error:
        reason, judge = str(error), None
    if judge is None:
        omitted["retrieval_at_1"] = omitted["retrieval_at_1_real"] = str(reason)
        return figures, omitted, seconds
    captions, pool = [images.captions[row] for row in rows], list(images.captions)
    for done, (name, pictures) in enumerate((("retrieval_at_1", made), ("retrieval_at_1_real", real))):
        report("retrieval", done, 2)
        figures[name] = retrieval_at_1(pictures, captions, pool, candidates, seed=0, scorer=judge, name=name)
    report("retrieval", 2, 2)
    return figures, omitted, seconds


def _no_retrieval(system: System, images: MediaSet, candidates: int) -> str | None:
    """Why retrieval does not apply, if it does not."""
    if system.condition_kind != "text":
        return "it asks which caption a picture shows, and this generator takes none"
    distinct = len(set(images.captions))
    if distinct < candidates:
        return f"it chooses among {candidates} captions, but {images.name} holds out {distinct} distinct ones"
    return None
