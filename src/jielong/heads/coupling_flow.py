"""Coupling flows: NICE (arXiv 1410.8516) and RealNVP (1605.08803), exact likelihood and one pass to draw a picture."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from jielong.core.tokens import Layout
from jielong.heads.base import HeadSettings
from jielong.heads.exact_flow import FlowHead, Prior, check_layout
from jielong.networks.flows import Bijection, CouplingKind, CouplingSizes, PictureFlow, VectorFlow


class CouplingFlow(HeadSettings, family="head", name="coupling_flow"):
    """Settings of coupling flows, for continuous tokens of unit standard deviation and the order at_once.

    ``network: convolutional`` with affine couplings is RealNVP; ``network: mlp`` with additive ones and a logistic prior is NICE.

    Attributes:
        network: ``convolutional``: residual networks over pictures, several scales; ``mlp``: over all values of a picture as one vector.
        coupling: ``affine`` scales and shifts, ``additive`` shifts alone.
        couplings: Layers; with convolutions of each kind of mask at each scale, and one more at the last scale.
        width: Channels inside a coupling's network.
        layers: Residual blocks of a convolutional network, hidden layers of an MLP.
        scales: Scales of a convolutional flow; behind each but the last the picture is halved and half of the values are done.
        actnorm: A learned scale and shift of each channel before every convolutional coupling (Glow, arXiv 1807.03039).
        mixing: A learned 1x1 convolution before every coupling of channels (Glow).
        prior: Distribution of the latents.
    """

    gives_confidence: ClassVar[bool] = False
    network: Literal["convolutional", "mlp"] = "convolutional"
    coupling: CouplingKind = "affine"
    couplings: int = Field(default=3, ge=2)
    width: int = Field(default=64, ge=1)
    layers: int = Field(default=2, ge=1)
    scales: int = Field(default=2, ge=1)
    actnorm: bool = True
    mixing: bool = False
    prior: Prior = "normal"

    @model_validator(mode="after")
    def _fits(self) -> CouplingFlow:
        given = [name for name in ("scales", "actnorm", "mixing") if getattr(self, name) != type(self).model_fields[name].default]
        if self.network == "mlp" and given:
            raise ValueError(f"{', '.join(given)}: of network: convolutional alone; leave out beside network: mlp")
        return self

    def build(self, width: int, layout: Layout, condition_width: int | None = None) -> FlowHead[Bijection]:
        """See :meth:`HeadSettings.build`."""
        check_layout(self.name, layout)
        sizes = CouplingSizes(
            layout.channels, width, self.width, self.layers, self.couplings, self.coupling, actnorm=self.actnorm, mixing=self.mixing
        )
        if self.network == "mlp":
            return FlowHead(VectorFlow(layout.positions, sizes), layout, self.prior)
        if len(layout.grid) != 2:
            raise ValueError(f"couplings with convolutions need tokens on rows and columns, not on {layout.describe()}: take network: mlp")
        return FlowHead(PictureFlow(layout.grid, sizes, self.scales), layout, self.prior)
