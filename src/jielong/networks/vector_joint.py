"""A network of joint heads, such as a DiT, as a decoder: a vector at each position to all tokens of a block."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SerializeAsAny
from torch import Tensor

from jielong.config.registry import OfFamily
from jielong.networks.denoiser import JointDenoiser, NetworkSettings
from jielong.networks.dit import DiT
from jielong.networks.vectors import BlockInputs, BlockSizes, VectorDecoder, VectorDecoderSettings


class JointDecoder(VectorDecoder):
    """Evaluates a joint network, which reads no times, once at a vector of ``n`` parts."""

    def __init__(self, network: JointDenoiser[Any], positions: int, each: int) -> None:
        super().__init__(positions * each)
        self.network, self.shape = network, (positions, each)

    def forward(self, vectors: Tensor, block: BlockInputs) -> Tensor:
        """See :meth:`VectorDecoder.forward`."""
        if block.coords is None:
            raise ValueError("a joint network needs the coordinates of its block: give HeadContext(coords=...)")
        prepared = self.network.prepare(block.hidden, block.coords, None, block.condition)
        return self.network.predict(vectors.unflatten(1, self.shape), None, prepared)


class JointToTokens(VectorDecoderSettings, family="vector_decoder", name="joint"):
    """A joint network that reads the vector in parts, one for each position.

    Attributes:
        network: The network, over all tokens of a block.
    """

    network: Annotated[SerializeAsAny[NetworkSettings], OfFamily("network")] = Field(default_factory=DiT)

    def build(self, size: int, sizes: BlockSizes) -> JointDecoder:
        """See :meth:`VectorDecoderSettings.build`."""
        network = self.network.build(
            inputs=size, outputs=sizes.channels, hidden=sizes.hidden, times=0, axes=len(sizes.grid), condition=sizes.condition
        )
        if not isinstance(network, JointDenoiser):
            raise ValueError(f"joint: the network {self.network.name} reads one token at a time; take one of whole blocks, such as dit")
        return JointDecoder(network, sizes.positions, size)
