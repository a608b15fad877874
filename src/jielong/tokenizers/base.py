"""What a tokenizer is: media to tokens and back, and, while it learns, a reconstruction with its losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import Part
from jielong.core.medium import ALONG_TIME, Axes, Medium, axes_text
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens


@dataclass(frozen=True)
class Reconstruction:
    """What a tokenizer returns while it learns.

    Attributes:
        media: The round trip's result, ``(B, C, H, W)`` or ``(B, C, T)``, with a gradient; ``None`` in a stage that compares no media.
        losses: Losses of the bottleneck by name (scalars, already weighted).
        likelihood: Where the tokenizer predicts a distribution of every colour value: its parameters, ``(B, 2 C, H, W)``.
        figures: Numbers of the bottleneck to log (scalars without gradient).
        first: What the first level of codes says by itself, with gradients, ``(B, N, D)``; all of it where there is one level.
    """

    media: Tensor | None
    losses: dict[str, Tensor] = field(default_factory=dict)
    likelihood: Tensor | None = None
    figures: dict[str, Tensor] = field(default_factory=dict)
    first: Tensor | None = None


class ReceptiveField(NamedTuple):
    """How many tokens before and behind a sample a decoder must have seen to give it."""

    before: int
    after: int


Once = TypeVar("Once")


class Tokenizer(nn.Module, ABC):
    """Cuts media into tokens and turns tokens back. Sizes that others need are properties, never typed twice."""

    media: Medium
    layout: Layout
    _known: dict[str, tuple[tuple[Any, ...], Any]]

    def __init__(self) -> None:
        super().__init__()
        self._known = {}

    def _once(self, name: str, make: Callable[[], Once]) -> Once:
        """What ``make`` gives, computed again only where a weight has changed since."""
        state = tuple((weight.data_ptr(), weight._version) for weight in chain(self.parameters(), self.buffers()))
        if self._known.get(name, ((None,),))[0] != state:
            self._known[name] = state, make()
        return cast("Once", self._known[name][1])

    @abstractmethod
    def encode(self, media: Tensor) -> Tokens:
        """Media ``(B, C, H, W)`` or ``(B, C, T)`` in [-1, 1] to tokens. No gradient."""

    @abstractmethod
    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens to media ``(B, C, H, W)`` or ``(B, C, T)`` in [-1, 1]. No gradient."""

    @property
    def any_length(self) -> bool:
        """Whether it reads sound of other lengths than that of :attr:`media`; tokens then stand in a row of their own length."""
        return False

    @property
    def cached_layout(self) -> Layout:
        """The layout of what :meth:`encode_to_cache` gives: the tokens' own, unless it keeps more."""
        return self.layout

    @property
    def hop_length(self) -> int | None:
        """Samples along time per position; ``None`` unless time is the only axis and the positions divide it evenly."""
        if self.media.axes != ALONG_TIME or len(self.layout.grid) != 1 or self.layout.scales or self.media.frames % self.layout.grid[0]:
            return None
        return self.media.frames // self.layout.grid[0]

    def positions_of(self, samples: Tensor) -> Tensor | None:
        """How many positions, from the first on, hold so many samples: ``(B,)`` to ``(B,)`` long, on the CPU; ``None`` without a hop."""
        if self.hop_length is None:
            return None
        return (samples.cpu().long() + self.hop_length - 1).div(self.hop_length, rounding_mode="floor").clamp(1, self.layout.grid[0])

    def residuals(self, media: Tensor) -> Tensor | None:
        """What is left of media after each of the parts that a token's meaning is added up from; ``None`` where it is one part."""
        return None

    def encode_to_cache(self, media: Tensor) -> Tokens:
        """What a file keeps of media, so that a generator can be trained without them: their tokens, or what tokens are drawn from."""
        return self.encode(media)

    def sample_cached(self, kept: Tokens, rng: PerSampleRNG) -> Tokens:
        """The tokens to train on, out of what :meth:`encode_to_cache` gave; where tokens are drawn, others at every call.

        Args:
            kept: In :attr:`cached_layout`.
            rng: A stream for each item.
        """
        return kept

    def mean_cached(self, tokens: Tokens) -> Tokens:
        """Of tokens as :meth:`encode_to_cache` gives them, those that :meth:`encode` gives; others are returned unchanged."""
        return tokens

    @property
    def silence_tokens(self) -> Tensor:
        """The tokens of a grey picture, or of silence, ``(1, N, C)``."""
        device = next(chain(self.parameters(), self.buffers()), torch.empty(0)).device
        return self._once("silence_tokens", lambda: self.encode(torch.zeros(1, *self.media.shape, device=device)).values)

    @property
    def receptive_field(self) -> ReceptiveField:
        """What its decoder looks at of sound: measured, by changing the first and the last token of silence.

        Where it looks at everything (a norm over all of the sound), that is all tokens.
        """
        return self._once("receptive_field", self._measure_receptive_field)

    @torch.no_grad()
    def _measure_receptive_field(self) -> ReceptiveField:
        count, hop_length, silent = self.layout.positions, self.hop_length or 1, self.silence_tokens
        ends = silent.repeat(2, 1, 1)
        for row, place in enumerate((0, count - 1)):
            one = ends[row, place]
            ends[row, place] = one + 1.0 if self.layout.vocabulary is None else (one + 1) % self.layout.vocabulary
        heard = self.decode(Tokens(torch.cat([silent, ends]), self.layout))
        first, last = ((heard[row] != heard[0]).any(0).nonzero().flatten() // hop_length for row in (1, 2))
        if not len(first) or not len(last):
            return ReceptiveField(count, count)
        return ReceptiveField(int(first.max()), count - 1 - int(last.min()))

    def decode_between(self, values: Tensor, start: int, stop: int) -> Tensor:
        """The sound of positions ``start`` to ``stop`` alone, as :meth:`decode` gives it, out of no more tokens than it takes.

        Args:
            values: Of all positions, ``(B, N, C)``.
            start: The first position.
            stop: That behind the last.
        """
        hop_length, first, last = self.hop_length or 1, 0, values.shape[1]
        if self.any_length:
            first, last = max(0, start - self.receptive_field.before), min(last, stop + self.receptive_field.after)
        media = self.decode(Tokens(values[:, first:last], replace(self.layout, grid=(last - first,))))
        return media[..., (start - first) * hop_length : (stop - first) * hop_length]

    def decode_padded(self, tokens: Tokens) -> Tensor:
        """As :meth:`decode`, of items that end: tokens of silence behind an item's last one, and silence in the media."""
        tokens = self.mean_cached(tokens)
        if tokens.lengths is None or self.hop_length is None:
            return self.decode(tokens)
        silent, count = self.silence_tokens.to(tokens.values.device), self.layout.positions
        behind = torch.arange(count, device=silent.device) >= tokens.lengths.to(silent.device)[:, None]
        end = min(count, int(tokens.lengths.max()))
        media = self.decode_between(torch.where(behind[..., None], silent, tokens.values), 0, end)
        media = media.masked_fill(behind[:, :end].repeat_interleave(self.hop_length, dim=1)[:, None], 0)
        return F.pad(media, (0, (count - end) * self.hop_length))

    def decode_known(self, tokens: Tokens, known: Tensor) -> Tensor:
        """The media so far, while only some tokens are known, with grey or silence (0) where nothing is known.

        Tokens that stand for no part of the picture alone (a sequence of 1-D tokens) cannot be covered one by one: in the place of those
        not known yet stand the tokens of a grey picture.

        Args:
            tokens: ``(B, N, C)``; what stands where nothing is known does not matter.
            known: ``(B, N)`` bool.
        """
        tokens, known = self.mean_cached(tokens), known.to(tokens.values.device)
        if len(self.layout.grid) != len(self.media.size) or self.layout.scales:
            return self.decode(Tokens(torch.where(known[..., None], tokens.values, self.silence_tokens.to(known.device)), self.layout))
        media = self.decode(tokens)
        covered = known.unflatten(1, tokens.layout.grid)[:, None].to(media.dtype)
        return media * F.interpolate(covered, size=media.shape[2:], mode="nearest")

    def keep_codebooks(self, count: int) -> None:
        """Use only the first ``count`` codebooks of a residual tokenizer, in place.

        Raises:
            ValueError: if it has no residual codebooks, or fewer.
        """
        raise ValueError(f"a {type(self).__name__} has no residual codebooks: leave out tokenizer.num_codebooks")

    def check(self, media: Tensor) -> None:
        """Raise ``ValueError`` when media has another shape than the tokenizer was made for, or is of whole numbers."""
        self.check_scale(media)
        if tuple(media.shape[1:]) != self.media.shape:
            axes = axes_text(self.media.axes).replace("(", "(channels, ")
            raise ValueError(f"this tokenizer reads {axes} = {self.media.shape}, not {tuple(media.shape[1:])}")

    def check_scale(self, media: Tensor) -> None:
        """Raise ``ValueError`` when media is of whole numbers, as files have them, whose scale is another."""
        if not media.is_floating_point():
            scale = "divide 16-bit samples by 32,768; divide 8-bit pixels by 127.5 and subtract 1"
            raise ValueError(f"media are floating point numbers in [-1, 1], not {media.dtype}: {scale}")

    def check_tokens(self, tokens: Tokens) -> None:
        """Raise ``ValueError`` when tokens stand in another layout than this tokenizer's."""
        if tokens.layout != self.layout:
            raise ValueError(f"these tokens are not this tokenizer's: they stand in {tokens.layout}, its own in {self.layout}")


class TokenizerSettings(Part):
    """Settings of a tokenizer.

    Attributes:
        fixed: Whether it has nothing to learn.
    """

    fixed: ClassVar[bool] = False

    @abstractmethod
    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> Tokenizer:
        """The tokenizer for media of this format.

        Args:
            media: The format.
            stages: The trained tokenizers that it :attr:`requires`, by name.

        Raises:
            ValueError: if the settings do not fit the media.
        """

    @property
    def requires(self) -> dict[str, str]:
        """Checkpoints of trained stages that it is built on, names or folders, by the stage's name."""
        return {}

    @property
    def likelihood_loss(self) -> str | None:
        """The loss that reads the distribution of values it predicts; ``None`` where it predicts values alone."""
        return None

    def check_axes(self, axes: Axes) -> None:
        """Raise ``ValueError`` when its networks cannot read media with these axes."""


class LearnedTokenizer(Tokenizer):
    """A tokenizer with weights to train."""

    @abstractmethod
    def forward(
        self, media: Tensor, generator: torch.Generator | None = None, samples_seen: int = 0, rng: PerSampleRNG | None = None
    ) -> Reconstruction:
        """The round trip with gradients, for training.

        Args:
            media: ``(B, C, H, W)`` or ``(B, C, T)`` in [-1, 1].
            generator: Draws what all items of a step have in common (restarts), or what need not be each item's own.
            samples_seen: Items trained on before this step, for what is annealed or trained in stages.
            rng: A stream for each item, for what is drawn for each.
        """

    def calibrate(self, media: Iterable[Tensor]) -> None:
        """Measure, once training is over, what must be known of the trained encoder's output; nothing, unless overridden.

        Every process calls it, with media of its own.

        Args:
            media: Training media, batch by batch, in [-1, 1].
        """

    @property
    def reconstructs_from(self) -> int:
        """Samples seen from which on :meth:`forward` gives media; in the stage before, its own losses are all there is to learn from."""
        return 0

    def statistics(self) -> dict[str, float]:
        """Numbers to log, such as the codebook's usage over the last assignments."""
        return {}

    def advice(self) -> str | None:
        """What the statistics warn of, and what to try; ``None`` when all is well."""
        return None

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The weight in front of the media, where adversarial weights compare gradients (arXiv 2012.09841, eq. 7)."""


def laid_out(maps: Tensor) -> Tensor:
    """Pictures with their channels last in memory, as convolutions in two dimensions like them; sound as it is, in one piece."""
    return maps.contiguous(memory_format=torch.channels_last) if maps.ndim == 4 else maps.contiguous()
