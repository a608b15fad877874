"""Multilayer perceptrons between a vector and all tokens of a block (the VAE of Kingma and Welling, arXiv 1312.6114)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from jielong.networks.vectors import (
    BlockInputs,
    BlockSizes,
    ConcatenatingDecoder,
    VectorDecoderSettings,
    VectorEncoder,
    VectorEncoderSettings,
)


def _hidden(inputs: int, width: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for layer in range(layers):
        parts += [nn.Linear(inputs if layer == 0 else width, width), nn.SiLU()]
    return nn.Sequential(*parts)


class MLPDecoder(ConcatenatingDecoder):
    """Hidden layers and a linear map to all tokens; affine without hidden layers."""

    def __init__(self, size: int, config: MLPToTokens, sizes: BlockSizes) -> None:
        super().__init__(size, config.condition, sizes)
        self.shape = (sizes.positions, sizes.channels)
        self.layers = _hidden(self.joined, config.width, config.layers)
        self.output = nn.Linear(config.width if config.layers else self.joined, sizes.positions * sizes.channels)

    def forward(self, vectors: Tensor, block: BlockInputs) -> Tensor:
        """See :meth:`VectorDecoder.forward`."""
        tokens: Tensor = self.output(self.layers(self.join(vectors, block)))
        return tokens.unflatten(1, self.shape)


class MLPEncoder(VectorEncoder):
    """Hidden layers over all values of a block; the values themselves without hidden layers."""

    def __init__(self, config: MLPFromTokens, sizes: BlockSizes) -> None:
        values = sizes.positions * sizes.channels
        super().__init__(config.width if config.layers else values)
        self.layers = _hidden(values, config.width, config.layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """See :meth:`VectorEncoder.forward`."""
        features: Tensor = self.layers(tokens.flatten(1))
        return features


class MLPToTokens(VectorDecoderSettings, family="vector_decoder", name="mlp"):
    """A multilayer perceptron from a vector to all tokens.

    Attributes:
        layers: Hidden layers; 0 is an affine map.
        width: Channels of a hidden layer.
        condition: Numbers of the vector that the condition is reduced to.
    """

    layers: int = Field(default=2, ge=0)
    width: int = Field(default=500, ge=1)
    condition: int = Field(default=64, ge=8)

    def build(self, size: int, sizes: BlockSizes) -> MLPDecoder:
        """See :meth:`VectorDecoderSettings.build`."""
        return MLPDecoder(size, self, sizes)


class MLPFromTokens(VectorEncoderSettings, family="vector_encoder", name="mlp"):
    """A multilayer perceptron over all values of a block.

    Attributes:
        layers: Hidden layers; with 0 the features are the values.
        width: Channels of a hidden layer.
    """

    layers: int = Field(default=2, ge=0)
    width: int = Field(default=500, ge=1)

    def build(self, sizes: BlockSizes) -> MLPEncoder:
        """See :meth:`VectorEncoderSettings.build`."""
        return MLPEncoder(self, sizes)
