"""A semantic code of a few hundred, then the continuous token given the code (Flow-SLM, arXiv 2508.09350).

The code of a vector is the nearest of ``V`` centres, which follow the training vectors. So

    p(x | h) = sum_c p(c | h) p(x | h, c) = p(code(x) | h) p(x | h, code(x))        L = -weight log p(c | h) + L(x | h, e_c)

A softmax predicts the code, which carries the linguistic content; a head of continuous tokens draws the vector with all else: voice,
melody, room. The paper's codes are the first codebook of a codec trained for it, and its acoustic head also reads three codes of future
frames.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn

from jielong.config.registry import OfFamily
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput
from jielong.heads.continuous import check_continuous
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.softmax import SoftmaxHead
from jielong.quantizers.base import QuantizerSettings
from jielong.quantizers.vector import Vector


class SemanticAcoustic(HeadSettings, family="head", name="semantic_acoustic"):
    """Settings of the semantic and acoustic heads.

    Attributes:
        quantizer: Maps a vector to its semantic code; the centres follow the training tokens.
        acoustic: The head that draws a vector given the code.
        embedding: Channels of a semantic code's embedding.
        weight: Weight of the semantic code's loss beside the acoustic head's.
    """

    quantizer: Annotated[SerializeAsAny[QuantizerSettings], OfFamily("quantizer")] = Vector.model_validate({"codebook_size": 256})
    acoustic: Annotated[SerializeAsAny[HeadSettings], OfFamily("head")] = FlowMatching()
    embedding: int = Field(default=128, ge=1)
    weight: float = Field(default=1.0, ge=0)

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> SemanticAcousticHead:
        """See :meth:`HeadSettings.build`."""
        return SemanticAcousticHead(width, layout, self)


class SemanticAcousticHead(Head):
    """Draws a semantic code, then the vector given the code. ``layout``: the tokens to predict, ``C`` numbers.

    *Temperature* applies to both; top-k and top-p to the code. *Guidance* applies to both: one code is drawn, and both branches of the
    acoustic head receive it.

    Raises ``ValueError`` if the tokens are discrete, the quantizer has several codebooks, or the acoustic head is joint.
    """

    discrete = False
    loss_ranks_weights = False  # the codes are of a quantizer that learns too

    def __init__(self, width: int, layout: Layout, settings: SemanticAcoustic = SemanticAcoustic()) -> None:
        super().__init__()
        check_continuous("semantic_acoustic", layout)
        acoustic = settings.acoustic.build(width + settings.embedding, layout)
        if acoustic.joint:
            raise ValueError("a semantic code is drawn per token, so the acoustic head may not be joint: give it a network such as mlp")
        self.quantizer, self.acoustic = settings.quantizer.build(layout.channels), acoustic
        codes = self.quantizer.layout((1,))
        if codes.channels != 1:
            raise ValueError(f"a vector has one semantic code, and this quantizer gives {codes.channels}: choose quantizer: vector")
        self.semantic = SoftmaxHead(width, codes)
        self.embedding, self.weight = nn.Embedding(self.semantic.vocabulary, settings.embedding), settings.weight
        self.iterative = self.acoustic.iterative

    def encode(self, values: Tensor) -> Tensor:
        """The semantic code of each vector, ``(..., C)`` to ``(..., 1)`` long."""
        return self.quantizer.encode(values)

    def acoustic_hidden(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Hidden vectors ``(..., D)`` concatenated with the embeddings of codes ``(..., 1)``: the input of the acoustic head."""
        return torch.cat([hidden, self.embedding(codes[..., 0]).to(hidden.dtype)], dim=-1)

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """``weight`` times the cross-entropy of the code in nats, plus the acoustic loss given the true code; ``(M,)``."""
        codes = self.quantizer(targets.float()).indices  # updates the centres in training
        acoustic = self.acoustic.loss(self.acoustic_hidden(hidden, codes), targets, context)
        return self.weight * self.semantic.loss(hidden, codes) + acoustic

    def on_train_step(self, samples_seen: int) -> None:
        """See :meth:`Head.on_train_step`."""
        self.acoustic.on_train_step(samples_seen)

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """See :meth:`Head.check_sampling`; top-k and top-p apply to the code, the rest must suit the acoustic head."""
        self.acoustic.check_sampling(sampling.model_copy(update={"top_k": 0, "top_p": 1.0}))

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw vectors ``(B, n, C)``; the confidence is that of the code."""
        self.check_sampling(sampling)
        codes = self.semantic.sample(hidden, rng, sampling, context)
        null = None if context.null is None else self.acoustic_hidden(context.null, codes.values)
        hidden, sampling = self.acoustic_hidden(hidden, codes.values), sampling.model_copy(update={"top_k": 0, "top_p": 1.0})
        vectors = self.acoustic.sample(hidden, rng, sampling, replace(context, null=null))
        return SampleOutput(vectors.values, codes.confidence)
