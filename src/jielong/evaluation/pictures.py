"""What a tokenizer or a generator of pictures is measured by."""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.core.medium import Medium
from jielong.core.tokens import Tokens
from jielong.data.sets import Batch
from jielong.evaluation import picture_generators
from jielong.evaluation.context import BATCH, EvalContext, EvalResult, Progress
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.frechet import frechet
from jielong.evaluation.protocols import EvalProtocol, reconstruct, register_protocol
from jielong.evaluation.provenance import Measurement, picture_hash
from jielong.evaluation.reconstruction import perceptual_distance, psnr, ssim
from jielong.evaluation.usage import codebook_usage
from jielong.media.pictures import Pictures
from jielong.networks.efficientnet import WeightsError


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


class ImageProtocol(EvalProtocol):
    """Figures of pictures."""

    def quick(self, rebuilt: Tensor, batch: Batch, medium: Medium) -> dict[str, float]:
        """PSNR of 8-bit pictures."""
        return {"psnr": psnr(rebuilt, batch.media).value}

    def tokenizer(self, context: EvalContext) -> EvalResult:
        """See :func:`tokenizer`."""
        return tokenizer(context)

    def generator(self, context: EvalContext) -> EvalResult:
        """See :func:`jielong.evaluation.picture_generators.generator`."""
        return picture_generators.generator(context)

    def digest(self, real: Tensor, medium: Medium) -> dict[str, str]:
        """Of 8-bit pictures."""
        return {"pictures_sha256": picture_hash(real)}


register_protocol("image", ImageProtocol())
