"""Convolutions over time that can be streamed (SEANet, arXiv 2009.02095; EnCodec, arXiv 2210.13438, section 3.1).

A convolution whose kernel spans ``k`` samples with stride ``s`` pads ``k - s`` samples: all on the left when it is causal, else half of
them on the right; on the right also as many as fill the last window. ``n`` samples become ``ceil(n / s)``. The transposed convolution
returns ``n s`` samples; the overlap is trimmed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.decoder import Decoder
from jielong.networks.repeated import RepeatedBlock
from jielong.networks.streaming import Stream, StreamingModule, StreamingSequential, StreamState
from jielong.networks.time_kernels import Kernel, convolution, join, transposed
from jielong.networks.time_layer import ConvNorm, Padding, TimeLayer, pad


@dataclass
class _Window(StreamState):
    """Samples that a convolution still needs; the first ``past`` of them only for the reflected end."""

    layer: Conv1d
    samples: Tensor
    started: bool = False
    past: int = 0
    fresh: set[int] = field(default_factory=set)

    def cannot_reset(self) -> str | None:
        layer = self.layer
        if layer.padding == "reflect" and (layer.left or layer.right):
            return "its beginning would be reflected, and all rows would wait for it; reset all rows, or take padding: constant"
        if layer.right:
            return "its layers look ahead"
        waiting = self.samples.shape[-1] - layer.left
        return f"a layer holds {waiting} of the {layer.stride} samples that fill its next window" if self.started and waiting else None

    def reset(self, row: int) -> None:
        self.samples = self.samples.clone()
        self.samples[row] = 0
        if self.layer.padding == "replicate" and self.started:
            self.fresh = self.fresh | {row}


class Conv1d(TimeLayer):
    """A convolution over time, ``(B, inputs, T)`` to ``(B, outputs, ceil(T / stride))``.

    Args:
        stride: Samples between windows.
        causal: Whether padding is on the left alone.
        padding: ``constant`` (zeros), ``reflect``, or ``replicate`` (the first sample). A reflected beginning delays a stream until
            there are as many samples to reflect.
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
        # A reflected end needs samples that no window needs any more; a reflected beginning, samples that are still to come.
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
        """``(B, inputs, T)`` to ``(B, outputs, ceil(T / stride))``; of a chunk, the samples that are determined by now."""
        if (stream := self.stream) is not None:
            return self._step(x, stream)
        return self._convolved(self._padded(x))

    def rearranged(self) -> Kernel:
        """As :func:`jielong.networks.time_kernels.convolution`."""
        bias = None if self.bias is None else self.bias.detach()
        return convolution(self.kernel().detach(), bias, self.stride, self.dilation, self.groups)

    def _convolved(self, x: Tensor) -> Tensor:
        if (folded := self.folded) is not None:
            return self.normalised(folded(x))
        return self.normalised(F.conv1d(x, self.kernel(), self.bias, self.stride, 0, self.dilation, self.groups))

    def _padded(self, x: Tensor) -> Tensor:
        return pad(x, self.left, self.right + (-x.shape[-1]) % self.stride, self.padding)

    def required_inputs(self, outputs: int) -> int:
        """All of the last window, and of a reflected beginning."""
        if outputs <= 0:
            return 0
        return max((outputs - 1) * self.stride + self.span - self.left, self.wait + 1)

    def _step(self, x: Tensor, stream: Stream) -> Tensor:
        stream.check(x)
        if self.left + self.right == 0 and self.stride == 1:
            return self._convolved(x) if x.shape[-1] else self._empty(x)
        state = stream.state(self, lambda: _Window(self, x[..., :0]))
        samples = join([state.samples, x]) if state.samples.shape[-1] else x
        if state.fresh and x.shape[-1]:
            for row in state.fresh:
                samples[row, :, : -x.shape[-1]] = x[row, :, :1]
            state.fresh = set()
        if not state.started:
            if stream.last:  # this is the whole sound
                state.samples, state.started = x[..., :0], True
                return self._convolved(self._padded(samples)) if samples.shape[-1] else self._empty(x)
            if samples.shape[-1] <= self.wait:
                state.samples = samples
                return self._empty(x)
            samples, state.started = pad(samples, self.left, 0, self.padding), True
        if stream.last:
            remaining = samples.shape[-1] - state.past - self.left
            samples = pad(samples, 0, self.right + (-remaining) % self.stride, self.padding)
        count = max(0, (samples.shape[-1] - state.past - self.span) // self.stride + 1)
        start, state_end = state.past, state.past + count * self.stride
        keep = min(state_end, samples.shape[-1])
        state.past = min(keep, self.slack)
        state.samples = samples[..., keep - state.past :].clone()
        return self._convolved(samples[..., start : state_end - self.stride + self.span]) if count else self._empty(x)

    def _empty(self, x: Tensor) -> Tensor:
        return x.new_empty(len(x), len(self.weight), 0)


@dataclass
class _Overlap(StreamState):
    """The sum of past windows beyond their stride, ``(B, outputs, k - s)`` without bias, and how much of the beginning is trimmed."""

    layer: ConvTranspose1d
    tail: Tensor
    trimmed: int = 0

    def cannot_reset(self) -> str | None:
        return "its layers look ahead" if self.layer.left else None

    def reset(self, row: int) -> None:
        self.tail = self.tail.clone()
        self.tail[row] = 0


class ConvTranspose1d(TimeLayer):
    """The transposed convolution, ``(B, inputs, T)`` to ``(B, outputs, T stride)``.

    Args:
        stride: Output samples for each input sample.
        causal: Whether only the end is trimmed.
        norm: As in :class:`TimeLayer`; weight norm is over the input channels, as in PyTorch.
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
        # Causal: an output depends on no later input, so the end is trimmed where a convolution pads the beginning.
        self.left, self.right = (0, kernel - stride) if causal else (self.left, self.right)
        self.outputs, self.stride, self.groups = outputs, stride, groups

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        inputs, _, kernel = self.weight.shape
        return f"{inputs}, {self.outputs}, {kernel}, stride={self.stride}, trimmed {self.left} and {self.right}"

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, T)`` to ``(B, outputs, T stride)``; of a chunk, the samples that are determined by now."""
        if (stream := self.stream) is not None:
            return self._step(x, stream)
        if not x.shape[-1]:
            return x.new_empty(len(x), self.outputs, 0)
        y = self._untrimmed(x)
        return self.normalised(y)[..., self.left : y.shape[-1] - self.right]

    def rearranged(self) -> Kernel:
        """As :func:`jielong.networks.time_kernels.transposed`."""
        return transposed(self.kernel().detach(), None if self.bias is None else self.bias.detach(), self.stride, self.groups)

    def _untrimmed(self, x: Tensor) -> Tensor:
        if (folded := self.folded) is not None:
            return folded(x)
        return F.conv_transpose1d(x, self.kernel(), self.bias, self.stride, groups=self.groups)

    def required_inputs(self, outputs: int) -> int:
        """Every window up to the last that contributes to an output."""
        return -(-(outputs + self.left) // self.stride) if outputs > 0 else 0

    def _step(self, x: Tensor, stream: Stream) -> Tensor:
        stream.check(x)
        overlap = self.left + self.right
        state = stream.state(self, lambda: _Overlap(self, x.new_zeros(len(x), self.outputs, overlap)))
        bias: Tensor | float = 0.0 if self.bias is None else self.bias[:, None]
        if x.shape[-1]:
            y = self._untrimmed(x)
            y[..., :overlap] += state.tail
        else:
            y = state.tail + bias
        settled = x.shape[-1] * self.stride
        state.tail = y[..., settled:] - bias
        trim = min(settled, self.left - state.trimmed)
        state.trimmed += trim
        end = settled + self.left if stream.last and state.trimmed == self.left else settled
        return y[..., trim:end]


@dataclass
class _Waiting(StreamState):
    """Samples of a shortcut that its branch has not caught up with."""

    samples: Tensor

    def cannot_reset(self) -> str | None:
        return "its layers look ahead" if self.samples.shape[-1] else None


class Residual(StreamingModule, RepeatedBlock):
    """``shortcut(x) + branch(x)``; in a stream the shortcut waits for a branch that lags behind."""

    def __init__(self, branch: StreamingModule, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T)`` to ``(B, C, T)``; of a chunk, the samples that are determined by now."""
        y, straight = self.branch(x), self.shortcut(x)
        if (stream := self.stream) is not None:
            state, count = stream.state(self, lambda: _Waiting(straight[..., :0])), y.shape[-1]
            if state.samples.shape[-1]:
                straight = join([state.samples, straight])
            if state.samples.shape[-1] or count != straight.shape[-1]:
                state.samples, straight = straight[..., count:].clone(), straight[..., :count]
        return straight + y

    def required_inputs(self, outputs: int) -> int:
        """The larger of both."""
        return max(layer.required_inputs(outputs) for layer in (self.branch, self.shortcut) if isinstance(layer, StreamingModule))


class SequentialDecoder(StreamingSequential, Decoder):
    """Layers one after the other, from features to sound."""

    @property
    def last_layer(self) -> nn.Parameter:
        """The last convolution's weight, where adversarial weights compare gradients."""
        return next(layer for layer in reversed(self.layers) if isinstance(layer, Conv1d)).weight
