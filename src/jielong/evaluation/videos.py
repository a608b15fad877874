"""What a tokenizer or a generator of videos is measured by: figures of pictures, a frame each, and the distance of their motion."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from jielong.core.json import JSON
from jielong.core.medium import Medium
from jielong.core.tokens import Tokens
from jielong.evaluation.context import EvalContext, EvalResult, merged, sampling_of
from jielong.evaluation.features import FeatureExtractor, FeatureSet
from jielong.evaluation.frechet import frechet
from jielong.evaluation.network_evaluations import count_evaluations, first_of
from jielong.evaluation.protocols import EvalProtocol, register_protocol
from jielong.evaluation.provenance import Measurement, picture_hash
from jielong.evaluation.reconstruction import psnr, ssim
from jielong.evaluation.soft_targets import nats_of_generator
from jielong.media.results import ResultItem, Results
from jielong.networks.efficientnet import WeightsError

MOTION = "differences of the features of a frame and the next"


def frames_of(videos: Tensor) -> Tensor:
    """The frames of ``(B, C, T, H, W)`` as pictures ``(B T, C, H, W)``, a video after the other."""
    return videos.transpose(1, 2).flatten(0, 1)


def motion(features: FeatureSet, frames: int) -> FeatureSet:
    """Differences between the features of each frame and the next, of videos of ``frames`` frames: ``(B (T - 1), D)``."""
    values = features.values.unflatten(0, (-1, frames)).diff(dim=1).flatten(0, 1)
    return FeatureSet(values, features.pictures, features.details | {"motion": MOTION})


def tokenizer(rebuilt: Tensor, real: Tensor) -> EvalResult:
    """PSNR and SSIM of frames, mean over all of them.

    Args:
        rebuilt: Reconstructions ``(B, C, T, H, W)`` in [-1, 1].
        real: The videos.
    """
    ours, theirs = frames_of(rebuilt), frames_of(real)
    figures, omitted = {"psnr": _of_frames(psnr(ours, theirs))}, dict[str, str]()
    try:
        figures["ssim"] = _of_frames(ssim(ours, theirs))
    except ImportError:
        omitted["ssim"] = "torchmetrics is not installed: pip install 'jielong[evaluate]'"
    except (RuntimeError, ValueError) as error:
        omitted["ssim"] = f"frames of {' x '.join(map(str, real.shape[-2:]))} pixels are too small for its window ({error})"
    return EvalResult(figures, omitted)


def _of_frames(figure: Measurement) -> Measurement:
    return replace(figure, details=figure.details | {"mean_over": "frames"})


def distances(made: Tensor, real: Tensor, extractor: FeatureExtractor) -> EvalResult:
    """Fréchet distances of generated videos to real ones: of features of their frames, and of the changes between these.

    The first is that of pictures, and the same for videos whose frames are shuffled; the second sees motion. Neither is the published FVD,
    whose network (I3D) is not used here.

    Args:
        made: ``(B, C, T, H, W)`` in [-1, 1].
        real: ``(B', C, T, H, W)``.
        extractor: The network.
    """
    names, frames = ("frechet", "motion_frechet"), made.shape[2]
    if min(len(made), len(real)) < 2:
        return EvalResult(omitted=dict.fromkeys(names, "it needs at least two videos"))
    ours, theirs = (extractor.extract(frames_of(videos)) for videos in (made, real))
    figures = {"frechet": _of_frames(frechet(ours, theirs))}
    if frames < 2:
        return EvalResult(figures, {"motion_frechet": "a video of one frame has no motion"})
    moved = frechet(motion(ours, frames), motion(theirs, frames))
    return EvalResult(figures | {"motion_frechet": replace(moved, name="motion_frechet")})


class VideoProtocol(EvalProtocol):
    """Figures of videos."""

    def tokenizer(self, context: EvalContext) -> EvalResult:
        """Those of any medium, with PSNR of 8-bit frames and SSIM."""
        found = super().tokenizer(context)
        if found.items is None:
            return found
        return merged([found, tokenizer(found.items.tensor, context.real)], found.drawn, found.items)

    def generator(self, context: EvalContext) -> EvalResult:
        """Those of any medium, and distances of generated videos to the held-out ones."""
        found = super().generator(context)
        system, figures = context.system, dict[str, Measurement]()
        if system.generator is not None and (
            soft := nats_of_generator(system.tokenizer, system.generator, context.real, context.conditions())
        ):
            figures = {"nats_per_frame": soft}
        items, drawn = (found.items, found.drawn) if found.items is not None else _drawn(context)
        context.report("features", 0, 1)
        try:
            apart = distances(items.tensor, context.real, FeatureExtractor())
        except (ImportError, WeightsError) as error:
            reason = f"{error}; pip install 'jielong[evaluate]'" if isinstance(error, ImportError) else str(error)
            apart = EvalResult(omitted=dict.fromkeys(("frechet", "motion_frechet"), reason))
        context.report("features", 1, 1)
        return merged([found, EvalResult(figures), apart], drawn, items)

    def digest(self, real: Tensor, medium: Medium) -> dict[str, str]:
        """Of 8-bit frames."""
        return {"frames_sha256": picture_hash(frames_of(real))}


def _drawn(context: EvalContext) -> tuple[Results[ResultItem], JSON]:
    """A video for each held-out caption or class, and how they were drawn."""
    system, conditions, begun = context.system, context.conditions(), time.perf_counter()
    start = _start(context, conditions)
    items = system.wrap(context.draw(conditions, start=start), names=context.names)
    if start is not None:
        return items, {
            "items": "one that continues each held-out item from the frames that are always given, item i from (seed, i)",
            "seconds_per_item": round((time.perf_counter() - begun) / len(context.rows), 4),
        }
    counted = count_evaluations(system, first_of(conditions), sampling_of(system, context.draws), context.draws.seed)
    return items, {
        "items": "one a held-out caption or class, item i from (seed, i)",
        "seconds_per_item": round((time.perf_counter() - begun) / len(context.rows), 4),
        "evaluations_per_item": counted.to_json(),
    }


def _start(context: EvalContext, conditions: Sequence[object] | None) -> tuple[Tokens, Tensor] | None:
    """The tokens of held-out items and which of them are given, where a generator without a condition continues given frames."""
    system, model = context.system, context.system.generator
    given = None if model is None or conditions is not None else model.order.given_positions(model.layout)
    return None if given is None else (system.encode(context.real), given)


register_protocol("video", VideoProtocol())
