"""How many of its codes a tokenizer uses."""

from __future__ import annotations

import math

import torch

from jielong.core.json import JSON
from jielong.core.tokens import Tokens
from jielong.evaluation.provenance import Measurement


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
    details: JSON = {
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
