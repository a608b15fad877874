"""Shared code of heads that decode one vector to all tokens of an item (GAN, VAE)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, SerializeAsAny
from torch import Tensor

from jielong.config.registry import OfFamily
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import NO_CONTEXT, Head, HeadContext, HeadSettings, SampleOutput
from jielong.heads.continuous import check_continuous, upcast
from jielong.networks.vector_residual import ResidualToTokens
from jielong.networks.vectors import BlockInputs, BlockSizes, VectorDecoder, VectorDecoderSettings


def block_inputs(hidden: Tensor, context: HeadContext) -> BlockInputs:
    """What the networks of a block read of a head's arguments. Raises ``ValueError`` for padding."""
    if context.mask is not None:
        raise ValueError("this head draws all tokens of an item, and some here are padding: give items of one length")
    return BlockInputs(hidden, context.coords, context.condition)


class WholeBlockSettings(HeadSettings):
    """Settings that these heads share, for continuous tokens.

    Attributes:
        generator: Network from the vector to all tokens.
        noise: Numbers of the vector; of so many at each position, where the network has a vector at each.
    """

    gives_confidence: ClassVar[bool] = False
    generator: Annotated[SerializeAsAny[VectorDecoderSettings], OfFamily("vector_decoder")] = ResidualToTokens()
    noise: int = Field(default=64, ge=1)

    def sizes(self, width: int, layout: Layout, condition_width: int | None) -> BlockSizes:
        """What the networks are built for. Raises ``ValueError`` if the tokens are codes, or have several scales."""
        check_continuous(self.name, layout)
        if layout.scales:
            raise ValueError(f"a {self.name} head draws one grid, and these tokens have {len(layout.scales)} scales: choose another head")
        return BlockSizes(layout.grid, layout.channels, width, condition_width)


class WholeBlockHead(Head):
    """A head that decodes one vector to all tokens of an item, in one evaluation.

    *Temperature* multiplies the vector: 1 is the model's distribution, 0 the most typical item. There is no guidance.
    """

    discrete = False
    whole = True

    def __init__(self, generator: VectorDecoder) -> None:
        super().__init__()
        self.generator = generator

    @property
    def joint(self) -> bool:
        """See :attr:`Head.joint`."""
        return True

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """See :meth:`Head.check_sampling`; guidance is refused too."""
        super().check_sampling(sampling)
        if sampling.guidance.scale != 1:
            raise ValueError(
                f"guidance {sampling.guidance.scale:g}: the {type(self).__name__} maps noise to tokens in one evaluation, where nothing is "
                "predicted that could be guided: leave guidance at 1, or lower the temperature"
            )

    def decode(self, vectors: Tensor, hidden: Tensor, context: HeadContext) -> Tensor:
        """Vectors ``(B, size)`` to tokens ``(B, n, C)`` in float32 (float64)."""
        return upcast(self.generator(vectors, block_inputs(hidden, context)))

    def sample(self, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT) -> SampleOutput:
        """Draw tokens ``(B, n, C)``, without confidence; see :meth:`Head.sample`."""
        self.check_sampling(sampling)
        return SampleOutput(self.decode(rng.normal(self.generator.size) * sampling.temperature, hidden, context))
