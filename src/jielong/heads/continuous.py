"""What heads of continuous tokens share when they draw a token in several evaluations of a small network (diffusion, flows).

A network (:mod:`jielong.networks.denoiser`) sees rows: noisy tokens ``(M, C)``, times, and what it prepared from the hidden vectors. Here
stands how rows are made of hidden vectors: in training each token gives several, with times and noise of their own, while the backbone
runs once (MAR, arXiv 2406.11838, section 3.2 and its "diffusion batch multiplier"); in sampling the conditional and the unconditional half
are one call.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from jielong.heads.base import Draw, Head, Sharpness
from jielong.networks.denoiser import Denoiser
from jielong.noise import Noise
from jielong.tokens import Layout


class Predict(Protocol):
    """The network at the noisy copies of a loss."""

    def __call__(self, x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
        """Noisy tokens ``(m, C)`` and times ``(m, T)`` to predictions ``(m, outputs)``, in float32 at least.

        ``rows`` are the indices of the copies asked for, where it is not all of them.
        """


def check_continuous(head: str, layout: Layout) -> None:
    """Refuse a layout of codes.

    Raises:
        ValueError: if the tokens are discrete.
    """
    if layout.discrete:
        raise ValueError(f"a {head} head needs continuous tokens; this tokenizer's are codes: choose a head such as softmax")


def widened(x: Tensor) -> Tensor:
    """In float32, or float64 where it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Evaluations:
    """The network at the tokens of one draw, to be called at any noisy tokens and times; guided, if there is anything to guide.

    The hidden vectors are prepared once. Guided, both halves read the same noisy tokens and are one call of twice the rows.

    Args:
        network: The network.
        hidden: Hidden vectors ``(B, n, D)``.
        null: Those without condition, or nothing.
        guidance: Scale; at 1, as without ``null``, only the conditional half is evaluated.
    """

    def __init__(self, network: Denoiser, hidden: Tensor, null: Tensor | None = None, guidance: float = 1.0) -> None:
        self.network, self.guidance, self.shape = network, guidance, hidden.shape[:2]
        self.joined = null is not None and guidance != 1.0
        rows = hidden.flatten(0, 1)
        if null is not None and self.joined:
            rows = torch.cat([rows, null.flatten(0, 1)])
        self.prepared = network.prepare(rows)

    def halves(self, x: Tensor, *times: float) -> tuple[Tensor, Tensor | None]:
        """The conditional and, where there is guidance, the unconditional prediction, each ``(B, n, outputs)`` in float32.

        Args:
            x: Noisy tokens ``(B, n, C)``.
            times: What the network takes, the same for all rows.
        """
        rows = x.flatten(0, 1)
        when = torch.tensor([times], dtype=x.dtype, device=x.device) if times else None
        out = widened(self.network.predict(torch.cat([rows, rows]) if self.joined else rows, when, self.prepared))
        if not self.joined:
            return out.unflatten(0, self.shape), None
        conditional, null = out.chunk(2)
        return conditional.unflatten(0, self.shape), null.unflatten(0, self.shape)

    def guide(self, conditional: Tensor, null: Tensor | None) -> Tensor:
        """``null + guidance (conditional - null)``."""
        return conditional if null is None else null + self.guidance * (conditional - null)

    def __call__(self, x: Tensor, *times: float) -> Tensor:
        """The guided prediction ``(B, n, outputs)`` in float32, for heads that guide all of it; see :meth:`halves`."""
        return self.guide(*self.halves(x, *times))


class IterativeHead(Head):
    """A head of continuous tokens whose network is evaluated several times a draw.

    A subclass says what one noisy copy of a token costs (:meth:`loss_of_copies`) and how noise becomes tokens (:meth:`draw`).

    Args:
        network: The network.
        layout: The tokens to predict.
        steps: Evaluations (or steps) of a draw, unless ``head_steps`` says otherwise.
        draws_per_token: Noisy copies of each token in a loss.

    Raises:
        ValueError: if the tokens are discrete.
    """

    discrete = False
    iterative = True

    def __init__(self, network: Denoiser, layout: Layout, *, steps: int, draws_per_token: int) -> None:
        super().__init__()
        check_continuous(type(self).__name__.removesuffix("Head").lower(), layout)
        self.network, self.channels = network, layout.channels
        self.steps, self.draws_per_token = steps, draws_per_token

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of the noisy copies of each token, ``(M,)``."""
        prepared = widened(self.network.prepare(hidden)).repeat(self.draws_per_token, 1)

        def predict(x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
            return widened(self.network.predict(x, times, prepared if rows is None else prepared[rows]))

        each = self.loss_of_copies(widened(targets).repeat(self.draws_per_token, 1), predict)
        return each.view(self.draws_per_token, -1).mean(0)

    @abstractmethod
    def loss_of_copies(self, targets: Tensor, predict: Predict) -> Tensor:
        """Loss of tokens ``(M, C)``, each with a time and noise of its own from torch's global generator, to ``(M,)``."""

    def sample(
        self, hidden: Tensor, noise: Noise, sharpness: Sharpness, null: Tensor | None = None, guidance: float = 1.0, progress: float = 0.0
    ) -> Draw:
        """Draw tokens ``(B, n, C)``; there is no likelihood of a draw to be confident by. See :meth:`Head.sample`.

        Raises:
            ValueError: if top-k or top-p is asked for.
        """
        self.check_sharpness(sharpness)
        steps = sharpness.head_steps_at(progress, self.steps)
        return Draw(self.draw(Evaluations(self.network, hidden, null, guidance), noise, steps, sharpness.temperature))

    @abstractmethod
    def draw(self, evaluate: Evaluations, noise: Noise, steps: int, temperature: float) -> Tensor:
        """From noise to tokens ``(B, n, C)`` in so many steps."""

    def initial(self, evaluate: Evaluations, noise: Noise) -> Tensor:
        """Standard normal noise where a draw begins, ``(B, n, C)``; guided or not, it is the same."""
        return noise.normal(evaluate.shape[1], self.channels)
