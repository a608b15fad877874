"""Codes of signs, their indices, and their entropies bit by bit: the base of lookup-free and binary spherical quantization."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from jielong.config.schedule import End
from jielong.core.whole_batch import mean_over_batch
from jielong.quantizers.base import Quantized
from jielong.quantizers.estimators import AutogradContext, straight_through
from jielong.quantizers.implicit import MOST_CODES, ImplicitQuantizer, ImplicitSettings
from jielong.quantizers.parallel import sum_over_processes, world

BitOrder = Literal["little", "big"]
_MOST_BITS = MOST_CODES.bit_length() - 1


class _BitEntropy(torch.autograd.Function):
    """Sum of the entropies of bits with logits ``x``, nats: ``|x| s - ln(1 - s)`` with ``s = sigmoid(-|x|)``, exact for large ``|x|``."""

    @staticmethod
    def forward(ctx: AutogradContext, logits: Tensor) -> Tensor:
        size = logits.abs()
        rare = torch.sigmoid(-size)
        ctx.save_for_backward(logits, rare)
        return (size.mul_(rare) - torch.log1p(-rare)).sum()

    @staticmethod
    def backward(ctx: AutogradContext, *gradients: Tensor) -> Tensor:
        logits, rare = ctx.saved_tensors
        return torch.addcmul(rare, rare, rare, value=-1).mul_(logits).mul_(-gradients[0])


def bit_entropy(logits: Tensor) -> Tensor:
    r"""The entropy of a token's code, averaged over tokens ``(M, L)``, a scalar in nats.

    With ``p(c | z)`` a softmax over all ``2^L`` codes of ``-|z - c|^2 / tau`` the bits are independent, bit ``k`` being set with
    probability ``sigmoid(logit_k)``; the entropy is therefore exactly ``sum_k H(p_k)``.
    """
    return _BitEntropy.apply(logits) / max(1, logits.shape[0])


def codebook_entropy(logits: Tensor, joint_bits: int, together: bool = False) -> Tensor:
    r"""The entropy of the codes averaged over tokens ``(M, L)``, ``H(E_z p(c | z))``, a scalar in nats.

    Averaging makes bits dependent, so this needs their joint distribution. Bits are split into groups of at most ``joint_bits``, whose
    joint distributions are averaged exactly and whose entropies are added: exact with one group, an upper bound otherwise. The joint
    table of ``s`` bits is a product of two matrices, ``(2^(s/2), M)`` and ``(M, 2^(s/2))``; no table of tokens by codes exists.

    Args:
        joint_bits: Most bits of a group.
        together: Average over the tokens of all processes and micro-batches. Each gets the gradient of its own tokens, scaled so that the
            mean over processes, which must call it together, is the whole batch's.
    """
    count = logits.shape[1]
    entropy = logits.new_zeros(())
    for run in logits.tensor_split(-(-count // joint_bits), dim=1):
        half = run.shape[1] // 2
        joint = _choices(run[:, :half]).t() @ _choices(run[:, half:])
        probabilities = _over_processes(joint, logits.shape[0]) if together else joint / max(1, logits.shape[0])
        if together:
            probabilities = probabilities + (mean_over_batch(probabilities.detach()) - probabilities.detach())
        entropy = entropy - (probabilities * (probabilities + torch.finfo(torch.float32).tiny).log()).sum()
    return entropy


def _choices(logits: Tensor) -> Tensor:
    """Probabilities of all values of independent bits, ``(M, s) -> (M, 2^s)``."""
    settings = torch.arange(1 << logits.shape[1], device=logits.device)[:, None] >> torch.arange(logits.shape[1], device=logits.device)
    return ((logits / 2) @ ((settings & 1) * 2 - 1).to(logits.dtype).t()).softmax(dim=1)


def _over_processes(sums: Tensor, count: int) -> Tensor:
    """The mean over all processes' tokens; ``sums`` of this process's ``count`` tokens have the gradient."""
    packed = sum_over_processes(torch.cat([sums.detach().flatten(), sums.new_tensor([count])]))
    total = packed[-1].clamp_min(1)
    local = sums * (world()[1] / total)
    return local + ((packed[:-1] / total).view_as(sums) - local.detach())


class BinarySettings(ImplicitSettings):
    """Settings of a :class:`BinaryQuantizer`."""

    bits: int = Field(default=12, ge=1, description="L; the codebook has 2^L codes")
    groups: int = Field(default=1, ge=1, description="K, indices per vector: 18 bits in 2 groups are 2 codes of 512, not 1 of 262,144")
    bit_order: BitOrder = Field(
        default="little", description="whether an index's first bit is the least (little) or most (big) significant"
    )
    entropy: float = Field(default=0.1, ge=0, description="weight w of the entropy loss")
    diversity: float = Field(default=1.0, ge=0, description="gamma, of the entropy of all codes in it")
    temperature: float = Field(default=1.0, gt=0, description="tau of the soft assignment; far below 1 its gradient vanishes")
    commitment: float = Field(default=0.0, ge=0, description="weight beta of the loss that keeps the encoder near its codes")
    joint_bits: int = Field(default=9, ge=1, le=_MOST_BITS, description="bits whose joint distribution enters the entropy of all codes")
    entropy_start: float = Field(default=1.0, ge=0, description="factor on the entropy's weight at the start, falling linearly to 1")
    entropy_samples: End = Field(default=0, description="samples seen when it reaches 1, or a share of the budget")

    @model_validator(mode="after")
    def _groups_fit(self) -> BinarySettings:
        if self.bits % self.groups:
            raise ValueError(f"{self.bits} bits do not divide into {self.groups} groups of equally many")
        if self.bits // self.groups > _MOST_BITS:
            least = next(groups for groups in range(math.ceil(self.bits / _MOST_BITS), self.bits + 1) if self.bits % groups == 0)
            raise ValueError(f"an index may hold {_MOST_BITS} bits, not {self.bits // self.groups}; set groups: {least}")
        return self

    @property
    def width(self) -> int:
        """``L``."""
        return self.bits

    @property
    def codebook_size(self) -> int:
        """``2^(L / K)``."""
        return 1 << self.bits // self.groups

    @property
    def num_codebooks(self) -> int:
        """``K``."""
        return self.groups


class BinaryQuantizer(ImplicitQuantizer):
    r"""Keeps the signs of ``L`` channels: codes are the ``2^L`` vectors of ``+-m``; a channel that is exactly 0 counts as negative.

    Losses: ``entropy`` is ``w (E_z H(p(c | z)) - gamma H(E_z p(c | z)))``, for confident tokens and a codebook that is fully used, with
    ``p(c | z)`` a softmax of ``-|z - c|^2 / tau`` over all codes, computed bit by bit (:func:`bit_entropy`, :func:`codebook_entropy`); its
    minimum is negative, and it is left out outside training. ``commitment`` is ``beta`` times the mean of ``(z - sg(c))^2``. Under data
    parallelism the second entropy is that of the whole batch.

    ``magnitude``: ``m``.
    """

    weights: Tensor

    def __init__(self, settings: BinarySettings, dim: int, magnitude: float) -> None:
        super().__init__(settings, dim)
        self.settings, self.magnitude = settings, magnitude
        weights = 1 << torch.arange(settings.bits // settings.groups)
        self.register_buffer("weights", weights if settings.bit_order == "little" else weights.flip(0), persistent=False)

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"bits={self.width}, num_codebooks={self.num_codebooks}, bit_order={self.settings.bit_order}, dim={self.dim}"

    @abstractmethod
    def _place(self, points: Tensor) -> Tensor:
        """``(M, L)`` as they are compared with codes."""

    def _entropy_weight(self, samples_seen: int) -> float:
        settings = self.settings
        left = max(0.0, 1 - samples_seen / settings.entropy_samples) if settings.entropy_samples else 0.0
        return settings.entropy * (1 + (settings.entropy_start - 1) * left)

    def _number(self, signs: Tensor) -> Tensor:
        """Signs as 0 and 1, ``(M, L)`` float32, to ``(M, K)``."""
        return (signs.view(-1, len(self.weights)) @ self.weights.float()).long().view(-1, self.num_codebooks)

    def _estimate(self, points: Tensor, codes: Tensor) -> Tensor:
        return straight_through(points, codes)

    def _round(self, points: Tensor, samples_seen: int) -> Quantized:
        settings, points = self.settings, self._place(points)
        signs = (points.detach() > 0).float()
        indices = self._number(signs)
        codes = signs.mul_(2 * self.magnitude).sub_(self.magnitude)
        error = F.mse_loss(points, codes)
        losses, statistics = {}, {"error": error.detach()}
        if settings.commitment > 0:
            losses["commitment"] = settings.commitment * error
        if settings.entropy > 0 and self.training:  # it costs more than quantizing
            logits = points * (4 * self.magnitude / settings.temperature)
            token = bit_entropy(logits)
            codebook = codebook_entropy(logits, settings.joint_bits, together=torch.is_grad_enabled())
            losses["entropy"] = self._entropy_weight(samples_seen) * (token - settings.diversity * codebook)
            statistics |= {"token_entropy": token.detach(), "codebook_entropy": codebook.detach()}
        return Quantized(self._estimate(points, codes), indices, losses, statistics)

    def _indices(self, points: Tensor) -> Tensor:
        return self._number((self._place(points) > 0).float())

    def _codes(self, indices: Tensor) -> Tensor:
        signs = (indices[..., None] & self.weights) != 0  # (..., K, L / K)
        return signs.flatten(-2).float().mul_(2 * self.magnitude).sub_(self.magnitude)

    def _remedies(self) -> list[str]:
        settings, remedies = self.settings, []
        if settings.entropy == 0:
            remedies.append("switch the entropy loss on (entropy: 0.1)")
        elif settings.diversity <= 1:
            remedies.append(f"weigh the entropy of all codes higher (diversity: {2 * settings.diversity or 1:g})")
        if settings.joint_bits < settings.bits:
            remedies.append(f"compute the entropy over more bits jointly (joint_bits: {min(settings.bits, 2 * settings.joint_bits)})")
        if settings.entropy_start <= 1:
            remedies.append("begin with a stronger entropy loss (entropy_start: 3, entropy_samples: 0.1)")
        return remedies
