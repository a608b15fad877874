"""The transformer flow (TarFlow, arXiv 2412.06329): exact likelihood, sampled token by token in every block."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, HeadContext, HeadSettings
from jielong.heads.continuous import upcast
from jielong.heads.exact_flow import FlowHead, check_layout
from jielong.networks.autoregressive_flow import Guidance, TransformerFlow
from jielong.networks.transformer import TransformerConfig


class TarFlow(HeadSettings, family="head", name="tarflow"):
    """Settings of the transformer flow, for continuous tokens of unit standard deviation and the order at_once.

    Attributes:
        blocks: Autoregressive maps, in alternating direction.
        network: The transformer of each block; a condition enters by the hidden vectors alone.
        noise: Standard deviation, in tokens, of the normal noise added to training tokens, which sampling removes in one step; the paper
            takes 0.05 of pictures in [-1, 1]. With 0 the likelihood is that of the tokens.
    """

    gives_confidence: ClassVar[bool] = False
    blocks: int = Field(default=4, ge=1)
    network: TransformerConfig = TransformerConfig(layers=2, norm="layer", activation="gelu", bias=True)
    noise: NonNegativeFloat = 0.0

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> TarFlowHead:
        """See :meth:`HeadSettings.build`."""
        check_layout(self.name, layout)
        return TarFlowHead(width, layout, self)


class TarFlowHead(FlowHead[TransformerFlow]):
    """A flow of causal transformers.

    Trained with noise of deviation ``s`` it models noisy tokens, and a draw ends with the mean of the clean ones given those (Tweedie):
    ``x + s^2 d ln p(x) / dx``. Outside of training no noise is added.
    """

    guides_inside = True

    def __init__(self, width: int, layout: Layout, settings: TarFlow) -> None:
        flow = TransformerFlow(settings.network, settings.blocks, layout.coordinates(), layout.channels, width)
        super().__init__(flow, layout)
        self.noise = settings.noise

    def loss(self, hidden: Tensor, targets: Tensor, context: HeadContext = NO_CONTEXT) -> Tensor:
        """Negative log-density of the tokens, in training of noisy ones, in nats per number, ``(B,)``."""
        if self.noise and self.training:
            targets = upcast(targets)
            targets = targets + self.noise * context.streams(hidden).normal(*targets.shape[1:]).to(targets.dtype)
        return super().loss(hidden, targets, context)

    def invert(self, z: Tensor, hidden: Tensor, sampling: SamplingConfig, context: HeadContext) -> Tensor:
        """See :meth:`FlowHead.invert`; guidance combines scales and shifts, and may change with the share of a block's known tokens."""
        null, guidance = context.unconditional, None
        if null is not None:
            guidance = Guidance(null, context.guidance_at or (lambda _: context.guidance))
        x = self.flow.inverse(z, hidden, guidance, sampling.cache, context.on_state)
        context.on_state(x)
        if self.noise:
            x = self.denoised(x, hidden)
            context.on_state(x)
        return x

    def denoised(self, x: Tensor, hidden: Tensor) -> Tensor:
        """``x + s^2 d ln p(x | hidden) / dx``, without gradient."""
        with torch.inference_mode(False), torch.enable_grad():
            noisy = x.detach().clone().requires_grad_()
            (score,) = torch.autograd.grad(self.log_prob(hidden.detach().clone(), noisy).sum(), noisy)
        return x + self.noise**2 * score
