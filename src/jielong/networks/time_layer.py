"""What convolutions over time share: a weight that may be normalised, padding, and a kernel prepared for inference on the CPU."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from jielong.networks.eligibility import standard_weights
from jielong.networks.streaming import StreamingModule
from jielong.networks.time_kernels import FoldedKernel, Kernel, join

Padding = Literal["constant", "reflect", "replicate"]
ConvNorm = Literal["weight_norm", "time_group_norm", "none"]


class TimeLayer(StreamingModule):
    """Base of :class:`Conv1d` and :class:`ConvTranspose1d`.

    Args:
        shape: Of the weight; weight norm keeps its first axis.
        overlap: Kernel span minus stride.
        norm: ``weight_norm``: ``w = g v / |v|`` for each row of the weight (arXiv 1602.07868); ``time_group_norm``: outputs are
            normalised over channels and time, which needs the whole sound; or ``none``.
        causal: Whether all context is on the left.
    """

    def __init__(self, shape: tuple[int, int, int], outputs: int, overlap: int, norm: ConvNorm, bias: bool, causal: bool) -> None:
        super().__init__()
        if overlap < 0:
            raise ValueError("a convolution's kernel must be at least as long as its stride, or samples are left out")
        self.right = 0 if causal else overlap // 2
        self.left = overlap - self.right
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.gain = nn.Parameter(_row_norms(self.weight.detach())) if norm == "weight_norm" else None
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.norm = nn.GroupNorm(1, outputs) if norm == "time_group_norm" else None
        self._folded: FoldedKernel | None = None

    def kernel(self) -> Tensor:
        """The weight after weight norm."""
        return self.weight if self.gain is None else self.weight * (self.gain / _row_norms(self.weight))

    def rearranged(self) -> Kernel:
        """The layer as a function of its padded input, with its weight rearranged (:mod:`jielong.networks.time_kernels`)."""
        raise NotImplementedError(f"{type(self).__name__} has no kernel")

    @property
    def cannot_stream(self) -> str | None:
        """Time-group norm normalises over the whole sound."""
        return None if self.norm is None else "time_group_norm normalises over the whole sound; take weight_norm or none"

    @property
    def folded(self) -> Kernel | None:
        """The prepared kernel of this layer or of the active stream, for inference on the CPU; ``None`` where none is valid.

        An exported graph has the plain layer, as kernels go through the items of a batch one by one.
        """
        if self.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_exporting():
            return None
        stream = self.stream
        for folded in (self._folded, None if stream is None else stream.folded.get(self)):
            if folded is not None and folded.version == self._weights_version():
                return folded.kernel
        return None

    @torch.no_grad()
    def fold(self) -> FoldedKernel | None:
        """The kernel for the present weights; ``None`` in training, off the CPU, and for weights that are not plain tensors."""
        version = self._weights_version()
        if self.training or version is None or self.weight.device.type != "cpu" or self.weight.dtype != torch.float32:
            return None
        if self._folded is not None and self._folded.version == version:
            return self._folded
        with torch.inference_mode(False):
            return FoldedKernel(self.rearranged(), version)

    def _weights_version(self) -> tuple[object, ...] | None:
        """Changes when a weight is replaced or written; ``None`` where a weight is computed anew by every access."""
        weights = standard_weights(self, ("weight", "gain", "bias"))
        return None if weights is None else tuple((weight.data_ptr(), weight._version, weight.device) for weight in weights)

    def normalised(self, x: Tensor) -> Tensor:
        """The output after time-group norm, if the layer has it."""
        return x if self.norm is None else self.norm(x)

    def __getstate__(self) -> dict[str, object]:
        """Without the prepared kernel, which cannot be pickled."""
        return self.__dict__ | {"_folded": None}


def fold(module: nn.Module) -> None:
    """Prepare the kernels of all layers for inference once; a weight that changes later invalidates its layer's kernel."""
    for layer in module.modules():
        if isinstance(layer, TimeLayer):
            layer._folded = layer.fold()


def _row_norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)


def pad(x: Tensor, left: int, right: int, how: Padding) -> Tensor:
    """Pad both sides; a sound too short to be reflected is first extended by zeros, which are removed again (EnCodec)."""
    if left + right == 0:
        return x
    if how == "constant":
        return join([x.new_zeros(*x.shape[:-1], left), x, x.new_zeros(*x.shape[:-1], right)])
    if how == "replicate":
        return join([x[..., :1].expand(-1, -1, left), x, x[..., -1:].expand(-1, -1, right)])
    missing = max(0, max(left, right) + 1 - x.shape[-1])
    x = join([x, x.new_zeros(*x.shape[:-1], missing)]) if missing else x
    end = x.shape[-1]
    padded = join([x[..., 1 : left + 1].flip(-1), x, x[..., end - 1 - right : end - 1].flip(-1)])
    return padded[..., : padded.shape[-1] - missing]
