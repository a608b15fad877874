"""Settings of the transformer."""

from __future__ import annotations

from jielong.backbones.base import BackboneSettings
from jielong.core.tokens import Layout
from jielong.networks import transformer as network
from jielong.networks.chain_start import Start


class Transformer(network.TransformerConfig, BackboneSettings, family="backbone", name="transformer"):
    """A block-causal transformer with rotary positions, for every order.

    Attributes:
        start: What stands at the first position, which reads no token: the learned ``placeholder``, the ``condition`` in its place
            (LlamaGen), or their ``sum`` (VAR). The condition is its pooled vector there, through a linear map unless it has the width of
            the backbone; with ``condition: prefix`` it is the last of its states.
    """

    start: Start = "placeholder"

    @property
    def prefixed(self) -> bool:
        """With ``condition: prefix``."""
        return self.condition == "prefix"

    @property
    def starts_with_condition(self) -> bool:
        """See :attr:`BackboneSettings.starts_with_condition`."""
        return self.start != "placeholder"

    def build(self, layout: Layout, condition_width: int | None) -> network.Transformer:
        """See :meth:`BackboneSettings.build`."""
        axes = layout.coordinates().shape[1]
        return network.Transformer(self, axes=axes, condition_width=condition_width, start=self.start)
