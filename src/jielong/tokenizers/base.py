"""Interface of tokenizers: media to tokens and back, and in training a reconstruction with losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import Part
from jielong.core.medium import ALONG_TIME, Axes, Medium, axes_text
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens

if TYPE_CHECKING:
    from jielong.networks.streaming import Stream


@dataclass(frozen=True)
class Reconstruction:
    """Result of a training forward."""

    media: Tensor | None  # (B, C, *size) with a gradient; None in a stage without reconstruction
    losses: dict[str, Tensor] = field(default_factory=dict)  # weighted scalars of the bottleneck by name
    likelihood: Tensor | None = None  # parameters of the predicted distribution of every colour value, (B, 2 C, H, W)
    figures: dict[str, Tensor] = field(default_factory=dict)  # scalars of the bottleneck to log, without gradient
    first: Tensor | None = None  # vectors of the first codebook, with gradients, (B, N, D)


class ReceptiveField(NamedTuple):
    """Tokens before and after a sample that a decoder reads to compute it."""

    before: int
    after: int


Result = TypeVar("Result")


class Tokenizer(nn.Module, ABC):
    """Media to tokens and back; sizes derive from :attr:`media` and :attr:`layout`."""

    media: Medium
    layout: Layout
    levels: int = 256
    """Values of a channel that media are rounded to, where tokens are those values."""
    _cache: dict[str, tuple[tuple[tuple[int, int], ...], object]]

    def __init__(self) -> None:
        super().__init__()
        self._cache = {}

    def _cached(self, name: str, compute: Callable[[], Result]) -> Result:
        """The result of ``compute``, computed again when a weight has changed."""
        state = tuple((weight.data_ptr(), weight._version) for weight in chain(self.parameters(), self.buffers()))
        if name not in self._cache or self._cache[name][0] != state:
            self._cache[name] = state, compute()
        return cast("Result", self._cache[name][1])

    @abstractmethod
    def encode(self, media: Tensor) -> Tokens:
        """Media ``(B, C, *size)`` in [-1, 1] to tokens, without gradient."""

    @abstractmethod
    def decode(self, tokens: Tokens) -> Tensor:
        """Tokens to media ``(B, C, *size)`` in [-1, 1], without gradient."""

    @property
    def any_length(self) -> bool:
        """Whether it reads audio of other lengths than that of :attr:`media`; the layout's grid then has the length of the tokens."""
        return False

    def streaming(self, batch: int = 1) -> Stream:
        """A stream of ``batch`` clips in step, inside which :meth:`encode` and :meth:`decode` take chunks.

        Raises:
            ValueError: if it cannot be streamed.
        """
        raise ValueError(f"a {type(self).__name__} cannot be streamed: choose a tokenizer with the autoencoder seanet or dac")

    @property
    def no_likelihood(self) -> str | None:
        """Why a likelihood of its tokens says nothing of the probability of pictures; ``None`` where it does (:meth:`level_nats`)."""
        return "its tokens are not pixels: the likelihood of a code says nothing of what its decoder leaves out"

    def level_nats(self, tokens: Tokens) -> Tensor:
        """``ln`` of the volume in tokens of the pictures that round to each item's, ``(B,)``; 0 for codes.

        The negative log-likelihood of tokens, less this, is that of pictures.
        """
        return torch.zeros(len(tokens), device=tokens.values.device)

    @property
    def cached_layout(self) -> Layout:
        """Layout of :meth:`encode_to_cache`."""
        return self.layout

    @property
    def stored_by(self) -> Tokenizer:
        """The tokenizer on which the results of :meth:`encode_to_cache` depend alone, so that others which derive tokens read them too."""
        return self

    @property
    def hop_length(self) -> int | None:
        """Samples along time per position; ``None`` unless time is the only axis and the positions divide it evenly."""
        if self.media.axes != ALONG_TIME or self.layout.axes != ALONG_TIME or self.layout.scales or self.media.frames % self.layout.grid[0]:
            return None
        return self.media.frames // self.layout.grid[0]

    def positions_of(self, samples: Tensor) -> Tensor | None:
        """Positions that cover a number of samples, ``(B,)`` to ``(B,)`` long, on the CPU; ``None`` without a :attr:`hop_length`."""
        if self.hop_length is None:
            return None
        return (samples.cpu().long() + self.hop_length - 1).div(self.hop_length, rounding_mode="floor").clamp(1, self.layout.grid[0])

    def residuals(self, media: Tensor) -> Tensor | None:
        """Share of the features' square left after each summand of the quantizer, ``(parts,)``; ``None`` without a sum."""
        return None

    def encode_to_cache(self, media: Tensor) -> Tokens:
        """What token files store to train a generator: the tokens, or the distributions that tokens are sampled from."""
        return self.encode(media)

    def sample_cached(self, cached: Tokens, rng: PerSampleRNG) -> Tokens:
        """Tokens to train on, of the result of :meth:`encode_to_cache`; new samples by each item's stream if it stores distributions."""
        return cached

    def mean_cached(self, tokens: Tokens) -> Tokens:
        """Tokens as of :meth:`encode`, from those of :meth:`encode_to_cache`; tokens in :attr:`layout` are returned unchanged."""
        return tokens

    @property
    def silence_tokens(self) -> Tensor:
        """Tokens of a grey image or of silence, ``(1, N, C)``."""
        device = next(chain(self.parameters(), self.buffers()), torch.empty(0)).device
        return self._cached("silence_tokens", lambda: self.encode(torch.zeros(1, *self.media.shape, device=device)).values)

    @property
    def receptive_field(self) -> ReceptiveField:
        """Of the decoder of audio, measured by changing the first and last token of silence; all tokens with a norm over the clip."""
        return self._cached("receptive_field", self._measure_receptive_field)

    @torch.no_grad()
    def _measure_receptive_field(self) -> ReceptiveField:
        count, hop_length, silence = self.layout.positions, self.hop_length or 1, self.silence_tokens
        ends = silence.repeat(2, 1, 1)
        for row, place in enumerate((0, count - 1)):
            one = ends[row, place]
            ends[row, place] = one + 1.0 if self.layout.vocabulary is None else (one + 1) % self.layout.vocabulary
        audio = self.decode(Tokens(torch.cat([silence, ends]), self.layout))
        first, last = ((audio[row] != audio[0]).any(0).nonzero().flatten() // hop_length for row in (1, 2))
        if not len(first) or not len(last):
            return ReceptiveField(count, count)
        return ReceptiveField(int(first.max()), count - 1 - int(last.min()))

    def decode_between(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Audio of positions ``start`` to ``stop`` (exclusive) of ``values (B, N, C)``, equal to that part of :meth:`decode`."""
        hop_length, first, last = self.hop_length or 1, 0, values.shape[1]
        if self.any_length:
            first, last = max(0, start - self.receptive_field.before), min(last, stop + self.receptive_field.after)
        media = self.decode(Tokens(values[:, first:last], replace(self.layout, grid=(last - first,))))
        return media[..., (start - first) * hop_length : (stop - first) * hop_length]

    def decode_padded(self, tokens: Tokens) -> Tensor:
        """As :meth:`decode`, with silence after each item's length."""
        tokens = self.mean_cached(tokens)
        if tokens.lengths is None or self.hop_length is None:
            return self.decode(tokens)
        silence, count = self.silence_tokens.to(tokens.values.device), self.layout.positions
        padding = torch.arange(count, device=silence.device) >= tokens.lengths.to(silence.device)[:, None]
        end = min(count, int(tokens.lengths.max()))
        media = self.decode_between(torch.where(padding[..., None], silence, tokens.values), 0, end)
        media = media.masked_fill(padding[:, :end].repeat_interleave(self.hop_length, dim=1)[:, None], 0)
        return F.pad(media, (0, (count - end) * self.hop_length))

    def decode_known(self, tokens: Tokens, known: Tensor) -> Tensor:
        """Partial media of the known tokens, grey or silent (0) elsewhere.

        1-D tokens of images have no region of their own: :attr:`silence_tokens` replace those that are not known.

        Args:
            tokens: ``(B, N, C)``; unknown values do not matter.
            known: ``(B, N)`` bool.
        """
        tokens, known = self.mean_cached(tokens), known.to(tokens.values.device)
        if len(self.layout.grid) != len(self.media.size) or self.layout.scales:
            return self.decode(Tokens(torch.where(known[..., None], tokens.values, self.silence_tokens.to(known.device)), self.layout))
        media = self.decode(tokens)
        covered = known.unflatten(1, tokens.layout.grid)[:, None].to(media.dtype)
        return media * self.spread(covered, media.shape[2:])

    def spread(self, covered: Tensor, size: Sequence[int]) -> Tensor:
        """Values of positions ``(B, 1, *grid)`` at the places of media of a size that belong to them, ``(B, 1, *size)``."""
        return F.interpolate(covered, size=tuple(size), mode="nearest")

    def keep_codebooks(self, count: int) -> None:
        """Use only the first ``count`` residual codebooks, in place. Raises ``ValueError`` if there are none, or fewer."""
        raise ValueError(f"a {type(self).__name__} has no residual codebooks: leave out tokenizer.num_codebooks")

    def check(self, media: Tensor) -> None:
        """Raise ``ValueError`` for media of another shape, or of integers."""
        self.check_scale(media)
        if tuple(media.shape[1:]) != self.media.shape:
            axes = axes_text(self.media.axes).replace("(", "(channels, ")
            raise ValueError(f"this tokenizer reads {axes} = {self.media.shape}, not {tuple(media.shape[1:])}")

    def check_scale(self, media: Tensor) -> None:
        """Raise ``ValueError`` for integers, whose scale is another."""
        if not media.is_floating_point():
            scale = "divide 16-bit samples by 32,768; divide 8-bit pixels by 127.5 and subtract 1"
            raise ValueError(f"media are floating point numbers in [-1, 1], not {media.dtype}: {scale}")

    def check_tokens(self, tokens: Tokens) -> None:
        """Raise ``ValueError`` for tokens of another layout."""
        if tokens.layout != self.layout:
            raise ValueError(f"these tokens are not this tokenizer's: their layout is {tokens.layout}, its layout {self.layout}")


class TokenizerSettings(Part):
    """Settings of a tokenizer.

    ``fixed``: whether it has nothing to learn; ``compares_items``: whether its loss needs a batch as a whole.
    """

    fixed: ClassVar[bool] = False
    compares_items: ClassVar[bool] = False

    @abstractmethod
    def build(self, media: Medium, stages: Mapping[str, Tokenizer] | None = None) -> Tokenizer:
        """The tokenizer for media of this format. ``stages``: the trained tokenizers that it :attr:`requires`, by name.

        Raises ``ValueError`` if the settings do not fit the media.
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

    def check_size(self, size: tuple[int, ...]) -> None:
        """Raise ``ValueError`` when media of this size do not divide into tokens."""


class LearnedTokenizer(Tokenizer):
    """A tokenizer with weights to train. ``reads_captions``: whether :meth:`forward` also takes ``captions``, one an item."""

    reads_captions: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self, media: Tensor, generator: torch.Generator | None = None, samples_seen: int = 0, rng: PerSampleRNG | None = None
    ) -> Reconstruction:
        """The round trip with gradients, for training.

        Args:
            media: ``(B, C, *size)`` in [-1, 1].
            generator: Draws shared by all items, such as restarts of codes.
            samples_seen: Items trained on before this step, for annealing and stages.
            rng: Draws of each item.
        """

    def calibrate(self, media: Iterable[Tensor]) -> None:
        """Measure statistics of the encoder's output after training; every process calls it with its share of training batches."""

    @property
    def code_dim(self) -> int | None:
        """Width of the vectors that are quantized; ``None`` without a quantizer."""
        return None

    @property
    def reconstructs_from(self) -> int:
        """Samples seen from which on :meth:`forward` returns media; before, it learns by its own losses only."""
        return 0

    def statistics(self) -> dict[str, float]:
        """Numbers to log, such as the codebook's usage over the last assignments."""
        return {}

    def advice(self) -> str | None:
        """What to try when the statistics are bad; ``None`` otherwise."""
        return None

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight, where adaptive weights compare gradients (arXiv 2012.09841, eq. 7)."""


Learned = TypeVar("Learned", bound=LearnedTokenizer)


def channels_last(module: Learned) -> Learned:
    """The module with weights of 2-D and 3-D convolutions in channels-last memory format, which the former prefer; of the latter, frames
    are then views as pictures."""
    for tensor in chain(module.parameters(), module.buffers()):
        tensor.data = _channels_last(tensor.data)
    return module


def contiguous(maps: Tensor) -> Tensor:
    """Contiguous maps, images and clips in channels-last memory format."""
    return _channels_last(maps) if maps.ndim in _CHANNELS_LAST else maps.contiguous()


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=_CHANNELS_LAST[tensor.ndim]) if tensor.ndim in _CHANNELS_LAST else tensor
