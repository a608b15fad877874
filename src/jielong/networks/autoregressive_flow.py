"""TarFlow: a normalizing flow of causal transformers over patches (arXiv 2412.06329).

A block maps each token by a shift and a scale that depend on the tokens before it, and every second block reads the tokens from the last
to the first:

    (a_i, b_i) = Transformer(x_0, ..., x_{i-1}; hidden_i)      z_i = (x_i - b_i) exp(-a_i)      ln |det dz/dx| = -sum a

All ``z_i`` are one causal pass; the inverse computes token by token, with keys and values in a cache. A token's slot reads the token before
it and its own hidden vector, so the first token's shift and scale depend on the condition (the paper leaves it as it is).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.networks.backbone import BackboneInputs
from jielong.networks.flows import Composition, Latents, zeroed
from jielong.networks.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class Guidance:
    """Guidance of the inverse: ``a_null + g (a - a_null)`` and likewise ``b``."""

    null: Tensor  # hidden vectors without condition, (B, n, D)
    at: Callable[[float], float]  # the scale g where a share of a block's tokens is known, in [0, 1)


class CausalBlock(nn.Module):
    """One autoregressive map of tokens ``(B, n, C)``, given hidden vectors ``(B, n, D)``; starts as the identity.

    ``coords``: coordinates of the positions ``(n, axes)``, on the CPU; ``backward``: from the last token to the first.
    """

    def __init__(self, config: TransformerConfig, coords: Tensor, channels: int, condition: int, backward: bool) -> None:
        super().__init__()
        self.backward_order, self.coords = backward, coords.flip(0) if backward else coords
        self.transformer = Transformer(config, axes=coords.shape[1])
        self.input, self.of_condition = nn.Linear(channels, config.width), nn.Linear(condition, config.width)
        self.output = zeroed(nn.Linear(config.width, 2 * channels))

    def _ordered(self, x: Tensor) -> Tensor:
        return x.flip(1) if self.backward_order else x

    def _slots(self, start: int, vectors: Tensor) -> BackboneInputs:
        stop = start + vectors.shape[1]
        return BackboneInputs(vectors, self.coords[start:stop], torch.arange(start, stop))

    def _log_scale_and_shift(self, states: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        out: Tensor = self.output(states)
        log_scale, shift = out.to(dtype).chunk(2, dim=-1)
        return log_scale, shift

    def forward(self, x: Tensor, condition: Tensor) -> Latents:
        """All tokens in one pass."""
        x = self._ordered(x)
        before = F.pad(self.input(x[:, :-1].to(self.input.weight.dtype)), (0, 0, 1, 0))
        states = self.transformer(self._slots(0, before + self.of_condition(self._ordered(condition))))
        log_scale, shift = self._log_scale_and_shift(states, x.dtype)
        return Latents(self._ordered((x - shift) * (-log_scale).exp()), -log_scale.flatten(1).sum(1))

    @torch.no_grad()
    def inverse(self, z: Tensor, condition: Tensor, guidance: Guidance | None = None, cached: bool = True) -> Tensor:
        """Token by token; without a cache every token's pass computes all before it again: the reference."""
        z = self._ordered(z)
        count, halves = z.shape[1], 1 if guidance is None else 2
        whole = condition if guidance is None else torch.cat([condition, guidance.null])
        of_condition = self.of_condition(self._ordered(whole))
        cache = self.transformer.new_cache(len(whole), count) if cached else None
        slots, tokens = of_condition[:, :0], list[Tensor]()
        for index in range(count):
            slot = of_condition[:, index : index + 1]
            if tokens:
                slot = slot + self.input(tokens[-1].to(self.input.weight.dtype)).repeat(halves, 1, 1)
            slots = torch.cat([slots, slot], dim=1)
            inputs = self._slots(0, slots) if cache is None else self._slots(index, slot)
            states = self.transformer(inputs, cache)[:, -1:]
            log_scale, shift = self._log_scale_and_shift(states, z.dtype)
            if guidance is not None:
                g = guidance.at(index / count)
                log_scale, shift = (torch.lerp(null, own, g) for own, null in (log_scale.chunk(2), shift.chunk(2)))
            tokens.append(z[:, index : index + 1] * log_scale.exp() + shift)
        return self._ordered(torch.cat(tokens, dim=1))


class TransformerFlow(Composition):
    """``blocks`` autoregressive maps in alternating direction; see :class:`CausalBlock` for shapes."""

    def __init__(self, config: TransformerConfig, blocks: int, coords: Tensor, channels: int, condition: int) -> None:
        super().__init__()
        maps = [CausalBlock(config, coords, channels, condition, backward=bool(index % 2)) for index in range(blocks)]
        self.maps = cast("Sequence[CausalBlock]", nn.ModuleList(maps))

    @property
    def factors(self) -> Sequence[nn.Module]:
        """See :attr:`Composition.factors`."""
        return self.maps

    def inverse(
        self,
        z: Tensor,
        condition: Tensor,
        guidance: Guidance | None = None,
        cached: bool = True,
        on_state: Callable[[Tensor], None] = lambda _: None,
    ) -> Tensor:
        """See :meth:`Bijection.inverse`; ``on_state`` receives the tokens after each map but the last."""
        for index, block in enumerate(reversed(self.maps)):
            if index:
                on_state(z)
            z = block.inverse(z, condition, guidance, cached)
        return z
