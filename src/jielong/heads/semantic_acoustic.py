"""Two streams a token: first a unit, one of a few hundred codes, then the vector that it stands for (Flow-SLM, arXiv 2508.09350).

The unit of a vector is the nearest of ``V`` centres, which follow the vectors of training. So

    p(x | h) = sum_u p(u | h) p(x | h, u) = p(unit(x) | h) p(x | h, unit(x))        L = -weight log p(u | h) + L(x | h, e_u)

A softmax says which unit comes next, which keeps what is said on its track, and a head of continuous tokens draws the vector, with all that
the unit leaves open: voice, melody, the room. The paper's units are the first codes of a codec trained for it, and its head is told three
units more, of the frames to come.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn

from jielong.config.registry import OfFamily, Part
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, SampleOutput, SamplingConfig
from jielong.heads.continuous import check_continuous
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.softmax import SoftmaxHead
from jielong.quantizers.base import Quantizer, QuantizerSettings
from jielong.quantizers.vector import Vector


class SemanticAcousticHead(Head):
    """Draws a unit, then the vector given the unit.

    *Temperature*, top-k and top-p are of the units, and temperature is that of the vectors too, as their head has it. *Guidance* is of
    both: one unit is drawn, and both halves are told it.

    Args:
        width: Width ``D`` of the hidden vectors.
        layout: The tokens to predict, ``C`` numbers.
        quantizer: Its centres are the units'; of vectors of ``C`` numbers.
        vectors: The head that draws a vector, of hidden vectors ``D + embedding`` wide.
        embedding: Numbers that a unit is told in.
        weight: Of the units' loss.

    Raises:
        ValueError: if the tokens are discrete, or the quantizer has several codebooks.
    """

    discrete = False

    def __init__(self, width: int, layout: Layout, quantizer: Quantizer, vectors: Head, embedding: int, weight: float) -> None:
        super().__init__()
        check_continuous("semantic_acoustic", layout)
        units = quantizer.layout((1,))
        if units.channels != 1 or units.vocabulary is None:
            raise ValueError(f"a unit is one code, and this quantizer gives {units.channels} a vector: choose quantizer: vector")
        self.quantizer, self.vectors, self.weight = quantizer, vectors, weight
        self.units, self.table = SoftmaxHead(width, units), nn.Embedding(units.vocabulary, embedding)
        self.iterative = vectors.iterative

    def unit(self, values: Tensor) -> Tensor:
        """The unit of each vector, ``(..., C)`` to ``(..., 1)`` long."""
        return self.quantizer.encode(values)

    def told(self, hidden: Tensor, units: Tensor) -> Tensor:
        """Hidden vectors ``(..., D)`` beside units ``(..., 1)``, for the head of vectors."""
        return torch.cat([hidden, self.table(units[..., 0]).to(hidden.dtype)], dim=-1)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """``weight`` times the cross-entropy of the unit in nats, and the loss of the vector given the true unit; ``(M,)``."""
        units = self.quantizer(targets.float()).indices  # which follow the targets in training
        return self.weight * self.units.loss(hidden, units) + self.vectors.loss(self.told(hidden, units), targets)

    def on_train_step(self, samples_seen: int) -> None:
        """See :meth:`Head.follow`."""
        self.vectors.on_train_step(samples_seen)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """What means nothing to the head of vectors is refused by it; top-k and top-p are of the units."""
        self.vectors.check_sampling(replace(sampling, top_k=0, top_p=1.0))

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw vectors ``(B, n, C)``; how sure the units are is how sure the draws are."""
        self.check_sampling(sampling)
        units = self.units.sample(hidden, rng, sampling, context)
        null = None if context.null is None else self.told(context.null, units.values)
        acoustic = replace(sampling, top_k=0, top_p=1.0)
        drawn = self.vectors.sample(self.told(hidden, units.values), rng, acoustic, replace(context, null=null))
        return SampleOutput(drawn.values, units.confidence)


class SemanticAcoustic(Part, family="head", name="semantic_acoustic"):
    """Settings of the two streams.

    Attributes:
        quantizer: Which gives a vector its unit; its centres follow the tokens of training.
        of: The head that draws a vector given the unit.
        embedding: Numbers that a unit is told in.
        weight: Of the units' loss.
    """

    quantizer: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Vector.model_validate({"codebook_size": 256})
    of: Annotated[SerializeAsAny[Part], OfFamily("head")] = FlowMatching()
    embedding: int = Field(default=128, ge=1)
    weight: float = Field(default=1.0, ge=0)

    def build(self, width: int, layout: Layout) -> SemanticAcousticHead:
        """The head for tokens of this layout."""
        check_continuous("semantic_acoustic", layout)
        vectors = self.of.build(width + self.embedding, layout)  # type: ignore[attr-defined]
        if vectors.joint:
            raise ValueError("a unit is drawn for one token, so the head of vectors may not be joint: give it a network such as mlp")
        return SemanticAcousticHead(width, layout, self.quantizer.build(layout.channels), vectors, self.embedding, self.weight)
