"""Convolutions over time that may be streamed (SEANet, arXiv 2009.02095; EnCodec, 2210.13438, section 3.1).

A convolution whose kernel spans ``k`` samples and whose stride is ``s`` pads ``k - s``: on the left alone when it is causal, and otherwise
half of them on the right; behind them as many as fill the last window. ``n`` samples become ``ceil(n / s)``. The transposed one gives
``n s`` samples: what lies beyond is trimmed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.decoder import Decoder
from jielong.networks.streaming import Chain, StreamingModule
from jielong.networks.time_kernels import Kernel, convolution, join, transposed

Padding = Literal["constant", "reflect", "replicate"]
ConvNorm = Literal["weight_norm", "time_group_norm", "none"]


class TimeLayer(StreamingModule):
    """What both kinds have: a weight, which may be normed, a bias, and how padding is shared between the sides.

    Args:
        shape: Of the weight; the first axis is the one that weight norm keeps.
        outputs: Channels that come out.
        reach: Samples that a window holds beyond its stride, ``k - s``.
        norm: ``weight_norm``: ``w = g v / |v|``, for each row of the weight (arXiv 1602.07868); ``time_group_norm``: the outputs are
            normalised over channels and time, which needs the whole sound; or ``none``.
        bias: Whether there is one.
        causal: Whether all context is on the left.
    """

    def __init__(self, shape: tuple[int, int, int], outputs: int, reach: int, norm: ConvNorm, bias: bool, causal: bool) -> None:
        super().__init__()
        if reach < 0:
            raise ValueError("a convolution's kernel must be at least as long as its stride, or samples are left out")
        self.right = 0 if causal else reach // 2
        self.left = reach - self.right
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.gain = nn.Parameter(_lengths(self.weight.detach())) if norm == "weight_norm" else None
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.norm = nn.GroupNorm(1, outputs) if norm == "time_group_norm" else None
        self._folded: Kernel | None = None
        self._folded_of: tuple[object, ...] = ()

    def kernel(self) -> Tensor:
        """The weight as it is used."""
        return self.weight if self.gain is None else self.weight * (self.gain / _lengths(self.weight))

    @property
    def folded(self) -> Kernel | None:
        """The layer with its weight prepared, on a CPU and where no gradients are wanted; ``None`` where it does not hold."""
        plain = self.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        return None if plain or self._folded_of != self._now() else self._folded

    def _now(self) -> tuple[object, ...]:
        """What tells these weights from others, and from themselves once they have changed."""
        return tuple(
            (weight.data_ptr(), weight._version, weight.device) for weight in (self.weight, self.gain, self.bias) if weight is not None
        )

    def prepared(self) -> Kernel:
        """The layer's kernel, with its weight rearranged."""
        raise NotImplementedError(f"{type(self).__name__} has no kernel")

    @property
    def needs_everything(self) -> str | None:
        """Time-group norm looks at all of a sound."""
        return None if self.norm is None else "time_group_norm normalises over the whole sound; take weight_norm or none"

    @torch.no_grad()
    def fold(self) -> bool:
        """Norm and rearrange the weight once, for evaluation on a CPU."""
        if self.training or self.weight.device.type != "cpu" or self.weight.dtype != torch.float32 or self._folded_of == self._now():
            return False
        with torch.inference_mode(False):
            self._folded, self._folded_of = self.prepared(), self._now()
        return True

    def unfold(self) -> None:
        """Norm the weight at every pass again."""
        self._folded, self._folded_of = None, ()

    def __getstate__(self) -> dict[str, object]:
        """Everything but the folded kernel, which copies make anew."""
        return self.__dict__ | {"_folded": None, "_folded_of": (), "stream": None}

    def finished(self, x: Tensor) -> Tensor:
        """What comes behind the convolution."""
        return x if self.norm is None else self.norm(x)


def _lengths(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)


@dataclass
class _Window:
    """Samples that a convolution still needs; the first ``past`` of them only to be reflected at the end."""

    samples: Tensor
    begun: bool = False
    past: int = 0
    fresh: set[int] = field(default_factory=set)


class Conv1d(TimeLayer):
    """A convolution over time, ``(B, inputs, T)`` to ``(B, outputs, ceil(T / stride))``.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        kernel: Length of the kernel.
        stride: Samples between windows.
        dilation: Samples between taps.
        groups: Groups of channels that are kept apart.
        bias: Whether there is one.
        causal: Whether padding is on the left alone.
        padding: What it consists of: zeros (``constant``), the sound reflected, or its first sample repeated. A reflected beginning holds
            back a stream until there is as much to reflect; the others do not.
        norm: As of :class:`TimeLayer`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        *,
        bias: bool = True,
        causal: bool = True,
        padding: Padding = "constant",
        norm: ConvNorm = "none",
    ) -> None:
        self.span = (kernel - 1) * dilation + 1
        super().__init__((outputs, inputs // groups, kernel), outputs, self.span - stride, norm, bias, causal)
        self.stride, self.dilation, self.groups, self.padding = stride, dilation, groups, padding
        # Reflected ends need samples that no window needs any more; reflected beginnings, some that are still to come.
        self.slack = self.right + stride if padding == "reflect" else 0
        self.wait = max(self.left, self.right + stride - 1) if padding == "reflect" and self.left + self.right + stride > 1 else 0

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        outputs, inputs, kernel = self.weight.shape
        return (
            f"{inputs * self.groups}, {outputs}, {kernel}, stride={self.stride}, dilation={self.dilation}, "
            f"left={self.left}, right={self.right}, padding={self.padding}"
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, T)`` to ``(B, outputs, ceil(T / stride))``; of a chunk, what is settled by now."""
        if self.stream is not None:
            return self._step(x)
        return self._convolved(self._padded(x))

    def prepared(self) -> Kernel:
        """As :func:`jielong.networks.time_kernels.convolution`."""
        bias = None if self.bias is None else self.bias.detach()
        return convolution(self.kernel().detach(), bias, self.stride, self.dilation, self.groups)

    def _convolved(self, x: Tensor) -> Tensor:
        if (folded := self.folded) is not None:
            return self.finished(folded(x))
        return self.finished(F.conv1d(x, self.kernel(), self.bias, self.stride, 0, self.dilation, self.groups))

    def _padded(self, x: Tensor) -> Tensor:
        return _pad(x, self.left, self.right + (-x.shape[-1]) % self.stride, self.padding)

    def needed(self, outputs: int) -> int:
        """All of the last window, and of a reflected beginning."""
        if outputs <= 0:
            return 0
        return max((outputs - 1) * self.stride + self.span - self.left, self.wait + 1)

    def _step(self, x: Tensor) -> Tensor:
        assert self.stream is not None
        stream = self.stream
        stream.check(x)
        if self.left + self.right == 0 and self.stride == 1:
            return self._convolved(x) if x.shape[-1] else self._nothing(x)
        kept = stream.recall(self, lambda: _Window(x[..., :0]))
        samples = join([kept.samples, x]) if kept.samples.shape[-1] else x
        if kept.fresh and x.shape[-1]:
            for row in kept.fresh:
                samples[row, :, : -x.shape[-1]] = x[row, :, :1]
            kept.fresh = set()
        if not kept.begun:
            if stream.last:  # all of it is here
                kept.samples, kept.begun = x[..., :0], True
                return self._convolved(self._padded(samples)) if samples.shape[-1] else self._nothing(x)
            if samples.shape[-1] <= self.wait:
                kept.samples = samples
                return self._nothing(x)
            samples, kept.begun = _pad(samples, self.left, 0, self.padding), True
        if stream.last:
            left_over = samples.shape[-1] - kept.past - self.left
            samples = _pad(samples, 0, self.right + (-left_over) % self.stride, self.padding)
        count = max(0, (samples.shape[-1] - kept.past - self.span) // self.stride + 1)
        reached = kept.past + count * self.stride
        keep = min(reached, samples.shape[-1])
        past = min(keep, self.slack)
        kept.samples = samples[..., keep - past :].clone()
        made = self._nothing(x)
        if count:
            made = self._convolved(samples[..., kept.past : reached - self.stride + self.span])
        kept.past = past
        return made

    def _nothing(self, x: Tensor) -> Tensor:
        return x.new_empty(len(x), len(self.weight), 0)

    def cannot_reset(self, kept: _Window) -> str | None:
        """In the middle of a window's stride, or where beginnings are reflected."""
        if self.padding == "reflect" and (self.left or self.right):
            return "its beginning would be reflected, and all rows would wait for it; begin all anew, or take padding: constant"
        waiting = kept.samples.shape[-1] - self.left - self.right
        if self.right:
            return "its layers look ahead"
        return f"a layer holds {waiting} of the {self.stride} samples that fill its next window" if kept.begun and waiting else None

    def reset(self, kept: _Window, row: int) -> None:
        """Padding stands before the next sample."""
        kept.samples = kept.samples.clone()
        kept.samples[row] = 0
        if self.padding == "replicate" and kept.begun:
            kept.fresh = kept.fresh | {row}


def _pad(x: Tensor, left: int, right: int, how: Padding) -> Tensor:
    """Padded sides; a sound too short to be reflected is lengthened by silence first, which is cut off again (EnCodec)."""
    if left + right == 0:
        return x
    if how == "constant":
        return join([x.new_zeros(*x.shape[:-1], left), x, x.new_zeros(*x.shape[:-1], right)])
    if how == "replicate":
        return join([x[..., :1].expand(-1, -1, left), x, x[..., -1:].expand(-1, -1, right)])
    lacking = max(0, max(left, right) + 1 - x.shape[-1])
    x = join([x, x.new_zeros(*x.shape[:-1], lacking)]) if lacking else x
    end = x.shape[-1]
    padded = join([x[..., 1 : left + 1].flip(-1), x, x[..., end - 1 - right : end - 1].flip(-1)])
    return padded[..., : padded.shape[-1] - lacking]


@dataclass
class _Overlap:
    """The part of past windows that later ones add to, ``(B, outputs, k - s)`` without bias, and how much of the beginning is trimmed."""

    tail: Tensor
    trimmed: int


class ConvTranspose1d(TimeLayer):
    """The transposed convolution, ``(B, inputs, T)`` to ``(B, outputs, T stride)``.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        kernel: Length of the kernel.
        stride: Samples that come of one.
        groups: Groups of channels that are kept apart.
        bias: Whether there is one.
        causal: Whether the end alone is trimmed.
        norm: As of :class:`TimeLayer`; weight norm goes by the channels that come in, as PyTorch has it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        groups: int = 1,
        *,
        bias: bool = True,
        causal: bool = True,
        norm: ConvNorm = "none",
    ) -> None:
        super().__init__((inputs, outputs // groups, kernel), outputs, kernel - stride, norm, bias, causal)
        # Causal: an output sees no later input, so what is cut off is at the end, where a convolution pads the beginning.
        self.left, self.right = (0, kernel - stride) if causal else (self.left, self.right)
        self.outputs, self.stride, self.groups = outputs, stride, groups

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        inputs, _, kernel = self.weight.shape
        return f"{inputs}, {self.outputs}, {kernel}, stride={self.stride}, trimmed {self.left} and {self.right}"

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, T)`` to ``(B, outputs, T stride)``; of a chunk, what is settled by now."""
        if self.stream is not None:
            return self._step(x)
        if not x.shape[-1]:
            return x.new_empty(len(x), self.outputs, 0)
        made = self._spread(x)
        return self.finished(made)[..., self.left : made.shape[-1] - self.right]

    def prepared(self) -> Kernel:
        """As :func:`jielong.networks.time_kernels.transposed`."""
        return transposed(self.kernel().detach(), None if self.bias is None else self.bias.detach(), self.stride, self.groups)

    def _spread(self, x: Tensor) -> Tensor:
        if (folded := self.folded) is not None:
            return folded(x)
        return F.conv_transpose1d(x, self.kernel(), self.bias, self.stride, groups=self.groups)

    def needed(self, outputs: int) -> int:
        """Every window up to the last that adds to an output."""
        return -(-(outputs + self.left) // self.stride) if outputs > 0 else 0

    def _step(self, x: Tensor) -> Tensor:
        assert self.stream is not None
        self.stream.check(x)
        reach = self.left + self.right
        kept = self.stream.recall(self, lambda: _Overlap(x.new_zeros(len(x), self.outputs, reach), 0))
        bias: Tensor | float = 0.0 if self.bias is None else self.bias[:, None]
        if x.shape[-1]:
            made = self._spread(x)
            made[..., :reach] += kept.tail
        else:
            made = kept.tail + bias
        resolve = x.shape[-1] * self.stride
        kept.tail = made[..., resolve:] - bias
        trim = min(resolve, self.left - kept.trimmed)
        kept.trimmed += trim
        end = resolve + self.left if self.stream.last and kept.trimmed == self.left else resolve
        return made[..., trim:end]

    def cannot_reset(self, kept: _Overlap) -> str | None:
        """Where it looks ahead."""
        return "its layers look ahead" if self.left else None

    def reset(self, kept: _Overlap, row: int) -> None:
        """Nothing reaches over from before."""
        kept.tail = kept.tail.clone()
        kept.tail[row] = 0


class Residual(StreamingModule):
    """``shortcut(x) + branch(x)``; where the branch lags behind, the shortcut waits for it."""

    def __init__(self, branch: StreamingModule, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T)`` to ``(B, C, T)``; of a chunk, what is settled by now."""
        made, straight = self.branch(x), self.shortcut(x)
        if self.stream is not None:
            waiting = self.stream.recall(self, lambda: [straight[..., :0]])
            if waiting[0].shape[-1]:
                straight = join([waiting[0], straight])
            if waiting[0].shape[-1] or made.shape[-1] != straight.shape[-1]:
                waiting[0], straight = straight[..., made.shape[-1] :].clone(), straight[..., : made.shape[-1]]
        return straight + made

    def needed(self, outputs: int) -> int:
        """Whichever needs more."""
        return max(layer.needed(outputs) for layer in (self.branch, self.shortcut) if isinstance(layer, StreamingModule))

    def cannot_reset(self, kept: list[Tensor]) -> str | None:
        """Where the shortcut waits."""
        return "its layers look ahead" if kept[0].shape[-1] else None


class ChainDecoder(Chain, Decoder):
    """Layers one after the other, from features to sound."""

    @property
    def last_layer(self) -> nn.Parameter:
        """The last convolution's weight, where adversarial weights compare gradients."""
        return next(layer for layer in reversed(self.layers) if isinstance(layer, Conv1d)).weight
