"""What importers of the transformers of ``diffusers`` share: transforms of their tensors into ours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from jielong.interop.key_map import Row, Transform
from jielong.networks.denoiser import SINUSOID, TIME_SCALE
from jielong.training.checkpoint import CheckpointError

KIND = "{kind:weight|bias}"


def stacked(sizes: Sequence[int], swapped: Sequence[int] = ()) -> Transform:
    """Tensors of theirs, of these lengths, one behind the other in ours; in the ``swapped`` ones scale and shift change places."""

    def forward(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat([_halves_swapped(each) if index in swapped else each for index, each in enumerate(tensors)])]

    def backward(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [_halves_swapped(each) if index in swapped else each for index, each in enumerate(tensors[0].split(list(sizes)))]

    words = "joined" + (", the scale before the shift changed to behind it" if swapped else "")
    return Transform(words, forward, backward)


def _halves_swapped(tensor: Tensor) -> Tensor:
    return torch.cat(list(reversed(tensor.chunk(2))))


def repeated(count: int, what: str) -> Transform:
    """``count`` tensors of theirs that hold the same, of which ours has one. Its forward raises :class:`CheckpointError` if they differ."""

    def forward(tensors: Sequence[Tensor]) -> list[Tensor]:
        for index, each in enumerate(tensors):
            if not torch.equal(each, tensors[0]):
                raise CheckpointError(
                    f"{what} of layer {index} differs from that of the first layer: these weights were trained further with one a layer, "
                    "and here all layers share one, as the authors' do"
                )
        return [tensors[0]]

    return Transform(f"taken once, of {count} layers that have the same", forward, lambda tensors: [tensors[0]] * count)


def patch_input(channels: int, patch: int) -> Transform:
    """A convolution over a patch as a map of its values in the order row, column, channel."""
    return Transform(
        "convolutions over patches as linear maps",
        lambda tensors: [tensors[0].permute(0, 2, 3, 1).flatten(1)],
        lambda tensors: [tensors[0].unflatten(1, (patch, patch, channels)).permute(0, 3, 1, 2)],
    )


def patch_output(patch: int, kinds: int, sign: int = 1) -> Transform:
    """Rows of a patch's outputs ``(row, column, kind, channel)`` with the kind first; ``sign`` is that of all of them."""

    def forward(tensors: Sequence[Tensor]) -> list[Tensor]:
        rows = tensors[0].unflatten(0, (patch, patch, kinds, -1))
        return [sign * rows.movedim(2, 0).flatten(0, 3)]

    def backward(tensors: Sequence[Tensor]) -> list[Tensor]:
        rows = tensors[0].unflatten(0, (kinds, patch, patch, -1))
        return [sign * rows.movedim(0, 2).flatten(0, 3)]

    return Transform("outputs of patches in our order" + (", with the other sign" if sign < 0 else ""), forward, backward)


def reversed_times() -> Transform:
    """The map of a time's sines and cosines where theirs counts from data, ``1 - t``: ``cos(w - wt) = cos w cos wt + sin w sin wt``.

    Their frequencies must be ours (``freq_shift`` 0).
    """
    last = SINUSOID // 2
    frequencies = torch.exp(torch.arange(last, dtype=torch.float32) * (-math.log(10_000.0) / last)).double()
    cos, sin = (TIME_SCALE * frequencies).cos(), (TIME_SCALE * frequencies).sin()

    def change(tensors: Sequence[Tensor]) -> list[Tensor]:
        of_cos, of_sin = tensors[0].double().chunk(2, dim=1)
        turned = torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], 1)
        return [turned.to(torch.promote_types(tensors[0].dtype, torch.float32))]

    return Transform("times counted from noise, by the addition theorem", change, change)


def constants(theirs: str | tuple[str, ...], ours: str, width: int, grid: tuple[int, int]) -> Row:
    """A bias that also holds what is added to every vector of a class or text here: the placeholder and the mean of learned positions.

    These are zeros in what is imported, and in the bias in what is exported: the network reads the mean hidden vector alone.
    """
    count = 1 if isinstance(theirs, str) else len(theirs)

    def forward(tensors: Sequence[Tensor]) -> list[Tensor]:
        bias = repeated(count, "the embedding of times").forward(tensors)
        return [*bias, torch.zeros(width), *(torch.zeros(side, width) for side in grid)]

    def backward(tensors: Sequence[Tensor]) -> list[Tensor]:
        bias, placeholder, *tables = tensors
        return [bias + placeholder + sum((table.mean(0) for table in tables), torch.zeros(width))] * count

    names = (ours, "placeholder", *(f"position_embeddings.{axis}.weight" for axis in range(len(grid))))
    return Row(theirs, names, Transform("a placeholder and learned positions added, as zeros", forward, backward))
