"""What a tokenizer or a generator of pictures is measured by."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from jielong.core.medium import Medium
from jielong.core.tokens import Tokens
from jielong.data.selection import chooses, split_name
from jielong.data.sets import Batch, MediaSet
from jielong.evaluation.attributes import AttributeJudge, JudgeError, attribute_accuracy
from jielong.evaluation.context import BATCH, EvalContext, EvalResult, Progress
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.frechet import frechet
from jielong.evaluation.likelihood import bits_per_dimension, nats_per_token, no_density, no_likelihood
from jielong.evaluation.protocols import EvalProtocol, reconstruct, register_protocol
from jielong.evaluation.provenance import Measurement, picture_hash
from jielong.evaluation.reconstruction import perceptual_distance, psnr, ssim
from jielong.evaluation.retrieval import retrieval_at_1
from jielong.evaluation.scorer import Scorer, ScorerError
from jielong.evaluation.usage import codebook_usage
from jielong.media.pictures import Pictures
from jielong.networks.efficientnet import WeightsError
from jielong.system import System


def tokenizer(context: EvalContext) -> EvalResult:
    """What comes back of pictures, and the codes it takes."""
    system, real, report = context.system, context.real, context.report
    codes, pictures = reconstruct(context)
    figures = {"psnr": psnr(pictures, real)}
    omitted: dict[str, str] = {}
    try:
        figures["ssim"] = ssim(pictures, real)
    except ImportError:
        omitted["ssim"] = "torchmetrics is not installed: pip install 'jielong[evaluate]'"
    except (RuntimeError, ValueError) as error:
        omitted["ssim"] = f"pictures of {' x '.join(map(str, real.shape[-2:]))} pixels are too small for its window ({error})"
    if system.tokenizer.layout.discrete:
        figures["codebook_usage"] = codebook_usage(Tokens(codes, system.tokenizer.layout))
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
    if context.perception:
        seen, ignore_state = _seen(pictures, real, report)
        figures, omitted = figures | seen, omitted | ignore_state
    return EvalResult(figures, omitted, items=Pictures(pictures, context.names))


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


def generator(context: EvalContext) -> EvalResult:
    """How near generated pictures are to real ones, and to what they were to show."""
    system, images, real, report, scorer = context.system, context.media, context.real, context.report, context.scorer
    rows, candidates = context.rows, context.candidates
    conditions = context.conditions()
    begun = time.perf_counter()
    items = system.wrap(context.draw(conditions), names=context.names)
    made = items.tensor
    seconds = time.perf_counter() - begun
    drawn = {"pictures": "one a held-out caption or class, picture i from (seed, i)", "seconds_per_picture": round(seconds / len(rows), 4)}
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
        attributes = _judge(system, images)
        if attributes is not None:
            wanted = {name: [images.columns[name][row] for row in rows] for name in attributes.classes}
            for name, pictures in (("attribute_accuracy", made), ("attribute_accuracy_real", real)):
                figures[name] = attribute_accuracy(pictures, wanted, attributes, name)
    except JudgeError as error:
        omitted["attribute_accuracy"] = omitted["attribute_accuracy_real"] = str(error)
    try:
        reason = _no_retrieval(system, images, candidates)
        judge = scorer or Scorer.load() if reason is None else None
        if judge is not None and scorer is None and judge.details.get("data") != images.name:
            reason, judge = f"the scorer was trained on {judge.details.get('data')}, not on {images.name}", None
    except (ImportError, WeightsError, ScorerError, ValueError) as error:
        reason, judge = str(error), None
    if judge is None:
        omitted["retrieval_at_1"] = omitted["retrieval_at_1_real"] = str(reason)
        return EvalResult(figures, omitted, drawn, items)
    captions, pool = [images.captions[row] for row in rows], list(images.captions)
    for done, (name, pictures) in enumerate((("retrieval_at_1", made), ("retrieval_at_1_real", real))):
        report("retrieval", done, 2)
        figures[name] = retrieval_at_1(pictures, captions, pool, candidates, seed=0, scorer=judge, name=name)
    report("retrieval", 2, 2)
    return EvalResult(figures, omitted, drawn, items)


def _judge(system: System, images: MediaSet) -> AttributeJudge | None:
    """The judge of the set's attributes, for pictures drawn from captions; ``None`` where there is none."""
    if "text" not in system.inputs:
        return None
    judge = AttributeJudge.of(split_name(images.name)[0] if chooses(images.name) else images.name)
    return judge if judge is not None and judge.classes.keys() <= images.columns.keys() else None


def _no_retrieval(system: System, images: MediaSet, candidates: int) -> str | None:
    """Why retrieval does not apply, if it does not."""
    if system.inputs != ("text",):
        return "it asks which caption a picture shows, and this generator takes none"
    distinct = len(set(images.captions))
    if distinct < candidates:
        return f"it chooses among {candidates} captions, but {images.name} holds out {distinct} distinct ones"
    return None


class ImageProtocol(EvalProtocol):
    """Figures of pictures."""

    def quick(self, rebuilt: Tensor, batch: Batch, medium: Medium) -> dict[str, float]:
        """PSNR of 8-bit pictures."""
        return {"psnr": psnr(rebuilt, batch.media).value}

    def tokenizer(self, context: EvalContext) -> EvalResult:
        """See :func:`tokenizer`."""
        return tokenizer(context)

    def generator(self, context: EvalContext) -> EvalResult:
        """See :func:`generator`."""
        return generator(context)

    def digest(self, real: Tensor, medium: Medium) -> dict[str, str]:
        """Of 8-bit pictures."""
        return {"pictures_sha256": picture_hash(real)}


register_protocol("image", ImageProtocol())
