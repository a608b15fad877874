"""No backbone, for heads that are the whole network (latent diffusion)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from jielong.networks.backbone import Backbone, BackboneInputs
from jielong.networks.conditioning import Conditioning


@dataclass
class NoCache:
    """The projected condition, ``(B, 1, D)``."""

    batch: int
    started: bool = False
    added: Tensor | None = None

    def rows(self, index: slice) -> NoCache:
        """The cache of some items."""
        return replace(self, batch=len(range(*index.indices(self.batch))), added=None if self.added is None else self.added[index])


def _map(inputs: int, outputs: int, kind: str) -> nn.Module:
    if kind == "as_is":
        return nn.Identity()
    linear = nn.Linear(inputs, outputs)
    return linear if kind == "linear" else nn.Sequential(linear, nn.SiLU(), nn.Linear(outputs, outputs))


class Identity(Backbone[NoCache]):
    """Embeddings plus the pooled condition, equal at every position.

    ``pooled``: what maps it to ``width`` channels: one linear map, two with SiLU between them, or nothing.
    """

    supports_attention_mask: ClassVar[bool] = True  # positions are independent

    def __init__(self, width: int, condition_width: int | None = None, pooled: Literal["linear", "mlp", "as_is"] = "linear") -> None:
        super().__init__()
        self.width, self.conditioned = width, condition_width is not None
        self.pooled: nn.Module | None = None if condition_width is None else _map(condition_width, width, pooled)

    def forward(self, inputs: BackboneInputs, cache: NoCache | None = None, commit: bool = True) -> Tensor:
        """See :meth:`Backbone.forward`."""
        self.check(inputs, cache)
        added = self._added(inputs.conditioning) if cache is None or not cache.started else cache.added
        if cache is not None:
            cache.started, cache.added = True, added
        return inputs.embeddings if added is None else inputs.embeddings + added

    def _added(self, conditioning: Conditioning | None) -> Tensor | None:
        return None if self.pooled is None or conditioning is None else self.pooled(conditioning.pooled)[:, None]

    def new_cache(
        self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> NoCache:
        """See :meth:`Backbone.new_cache`; there are no keys and values."""
        return NoCache(batch)

    def cache_bytes(self, batch: int, positions: int, prefix: int = 0, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of one vector per item."""
        return 0 if self.pooled is None else batch * self.width * dtype.itemsize

    def check_order(self, blocks: Tensor, shifted: bool) -> None:
        """Raise ``ValueError`` unless all positions are one block, as no position depends on others."""
        if not shifted or int(blocks.max()) > 0:
            raise ValueError("without a backbone no position depends on earlier tokens, so it needs order: at_once")
