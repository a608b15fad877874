"""Training in float64, where rounding is 1e-16: what still depends on the division of a batch is no rounding.

In float32, two divisions may differ by much more than rounding: a code of a near tie flips, k-means or a skipped code follows, or the sign
of an L1 gradient at 0 (silence), or Adam's first step, whose size does not depend on the gradient's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from jielong.media.kinds.base import MediaKind, kinds


@contextmanager
def double_precision() -> Iterator[None]:
    """Modules that are built inside, media that are read and casts to float32 are float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        for kind in {type(each) for each in kinds().values()}:
            patch.setattr(kind, "to_float", _doubled(kind.to_float))
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def _doubled(to_float: Callable[[MediaKind, Tensor], Tensor]) -> Callable[[MediaKind, Tensor], Tensor]:
    return lambda kind, stored: to_float(kind, stored).double()
