"""What lookup-free and binary spherical quantization share: codes of signs, their numbers, and their entropies bit by bit."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from jielong.quantizers.base import Quantized
from jielong.quantizers.estimators import straight_through
from jielong.quantizers.implicit import MOST_CODES, ImplicitQuantizer, ImplicitSettings
from jielong.quantizers.parallel import sum_over_processes, world

BitOrder = Literal["little", "big"]
_MOST_BITS = MOST_CODES.bit_length() - 1


class _BitEntropy(torch.autograd.Function):
    """Sum of the entropies of bits with logits ``x``, nats: ``|x| s - ln(1 - s)`` with ``s = sigmoid(-|x|)``, exact for large ``|x|``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        size = logits.abs()
        rare = torch.sigmoid(-size)
        ctx.save_for_backward(logits, rare)
        return (size.mul_(rare) - torch.log1p(-rare)).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        logits, rare = ctx.saved_tensors
        return torch.addcmul(rare, rare, rare, value=-1).mul_(logits).mul_(-gradients[0])


def bit_entropy(logits: Tensor) -> Tensor:
    r"""The entropy of a token's code, averaged over tokens ``(M, L)``, a scalar in nats.

    With ``p(c | z)`` a softmax over all ``2^L`` codes of ``-|z - c|^2 / tau`` the bits are independent, bit ``k`` being set with
    probability ``sigmoid(logit_k)``; the entropy is therefore exactly ``sum_k H(p_k)``.
    """
    return _BitEntropy.apply(logits) / max(1, logits.shape[0])


def codebook_entropy(logits: Tensor, joint_bits: int, together: bool = False) -> Tensor:
    r"""The entropy of the codes that all tokens ``(M, L)`` choose between them, ``H(E_z p(c | z))``, a scalar in nats.

    Averaging makes bits dependent, so this needs their joint distribution. Bits are cut into runs of at most ``joint_bits``, as equal as
    can be, whose joint distributions are averaged exactly and whose entropies are added: exact when one run holds all bits, an upper bound
    otherwise. The joint table of a run of ``s`` bits is a product of two matrices, ``(2^(s/2), M)`` and ``(M, 2^(s/2))``, so that no table
    of tokens by codes ever exists.

    Args:
        logits: Of the bits, ``(M, L)``.
        joint_bits: Most bits of a run.
        together: Average over the tokens of all processes. Every process must call this together; each is handed the gradient of its own
            tokens, scaled so that the mean of the gradients of all processes is that of the whole batch.
    """
    count = logits.shape[1]
    entropy = logits.new_zeros(())
    for run in logits.tensor_split(-(-count // joint_bits), dim=1):
        half = run.shape[1] // 2
        joint = _choices(run[:, :half]).t() @ _choices(run[:, half:])
        probabilities = _over_everybody(joint, logits.shape[0]) if together else joint / max(1, logits.shape[0])
        entropy = entropy - (probabilities * (probabilities + torch.finfo(torch.float32).tiny).log()).sum()
    return entropy


def _choices(logits: Tensor) -> Tensor:
    """Probabilities of all settings of independent bits, ``(M, s) -> (M, 2^s)``."""
    settings = torch.arange(1 << logits.shape[1], device=logits.device)[:, None] >> torch.arange(logits.shape[1], device=logits.device)
    return ((logits / 2) @ ((settings & 1) * 2 - 1).to(logits.dtype).t()).softmax(dim=1)


def _over_everybody(sums: Tensor, count: int) -> Tensor:
    """The mean over everybody's tokens, of which this process's ``count`` are in ``sums`` and carry the gradient."""
    packed = sum_over_processes(torch.cat([sums.detach().flatten(), sums.new_tensor([count])]))
    total = packed[-1].clamp_min(1)
    mine = sums * (world()[1] / total)
    return mine + ((packed[:-1] / total).view_as(sums) - mine.detach())


class BinaryQuantizer(ImplicitQuantizer):
    r"""Keeps the signs of ``L`` channels: codes are the ``2^L`` vectors of ``+-m``; a channel that is exactly 0 counts as negative.

    Losses: ``entropy`` is ``w (E_z H(p(c | z)) - gamma H(E_z p(c | z)))``, for tokens that are sure of their code and codes that are all in
    use, with ``p(c | z)`` a softmax of ``-|z - c|^2 / tau`` over all codes, computed bit by bit (:func:`bit_entropy`,
    :func:`codebook_entropy`); it is negative at its best, and left out outside training. ``commitment`` is ``beta`` times the mean of
    ``(z - sg(c))^2``. Under data parallelism the second entropy is that of the whole batch.

    Args:
        dim: Width ``D`` of the vectors.
        bits: ``L``.
        magnitude: ``m``.
        groups: Indices a vector, ``K``, each of the next ``L / K`` bits; the bits themselves do not change.
        bit_order: ``little``: an index's first bit is worth 1 (MAGVIT-v2), ``big``: its last one is (BSQ, vector-quantize-pytorch).
        project: Whether linear maps may bridge ``D`` and ``L``.
        entropy: ``w``.
        diversity: ``gamma``.
        temperature: ``tau``.
        commitment: ``beta``.
        joint_bits: Bits whose joint distribution the second entropy knows.
        entropy_start: Factor on ``w`` in the beginning, falling linearly to 1.
        entropy_samples: Samples seen when it has.
    """

    weights: Tensor

    def __init__(
        self,
        *,
        dim: int,
        bits: int,
        magnitude: float,
        groups: int = 1,
        bit_order: BitOrder = "little",
        project: bool = True,
        entropy: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 1.0,
        commitment: float = 0.0,
        joint_bits: int = 9,
        entropy_start: float = 1.0,
        entropy_samples: int = 0,
    ) -> None:
        if bits % groups:
            raise ValueError(f"{bits} bits do not divide into {groups} indices of equally many")
        super().__init__(dim=dim, width=bits, codebook_size=1 << bits // groups, num_codebooks=groups, project=project)
        self.bits, self.magnitude, self.bit_order = bits, magnitude, bit_order
        self.entropy, self.diversity, self.temperature, self.commitment = entropy, diversity, temperature, commitment
        self.joint_bits, self.entropy_start, self.entropy_samples = joint_bits, entropy_start, entropy_samples
        weights = 1 << torch.arange(bits // groups)
        self.register_buffer("weights", weights if bit_order == "little" else weights.flip(0), persistent=False)

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        return f"bits={self.bits}, num_codebooks={self.num_codebooks}, bit_order={self.bit_order}, dim={self.dim}"

    @abstractmethod
    def _place(self, points: Tensor) -> Tensor:
        """``(M, L)`` moved to where codes are compared."""

    def _entropy_weight(self, samples_seen: int) -> float:
        left = max(0.0, 1 - samples_seen / self.entropy_samples) if self.entropy_samples else 0.0
        return self.entropy * (1 + (self.entropy_start - 1) * left)

    def _number(self, signs: Tensor) -> Tensor:
        """Signs as 0 and 1, ``(M, L)`` float32, to ``(M, K)``."""
        return (signs.view(-1, len(self.weights)) @ self.weights.float()).long().view(-1, self.num_codebooks)

    def _estimate(self, points: Tensor, codes: Tensor) -> Tensor:
        return straight_through(points, codes)

    def _round(self, points: Tensor, samples_seen: int) -> Quantized:
        points = self._place(points)
        signs = (points.detach() > 0).float()
        indices = self._number(signs)
        codes = signs.mul_(2 * self.magnitude).sub_(self.magnitude)
        error = F.mse_loss(points, codes)
        losses, statistics = {}, {"error": error.detach()}
        if self.commitment > 0:
            losses["commitment"] = self.commitment * error
        if self.entropy > 0 and self.training:  # it costs more than quantizing
            logits = points * (4 * self.magnitude / self.temperature)
            sure = bit_entropy(logits)
            used = codebook_entropy(logits, self.joint_bits, together=torch.is_grad_enabled())
            losses["entropy"] = self._entropy_weight(samples_seen) * (sure - self.diversity * used)
            statistics |= {"token_entropy": sure.detach(), "codebook_entropy": used.detach()}
        return Quantized(self._estimate(points, codes), indices, losses, statistics)

    def _indices(self, points: Tensor) -> Tensor:
        return self._number((self._place(points) > 0).float())

    def _codes(self, indices: Tensor) -> Tensor:
        signs = (indices[..., None] & self.weights) != 0  # (..., K, L / K)
        return signs.flatten(-2).float().mul_(2 * self.magnitude).sub_(self.magnitude)

    def _remedies(self) -> list[str]:
        remedies = []
        if self.entropy == 0:
            remedies.append("switch the entropy loss on (entropy: 0.1)")
        elif self.diversity <= 1:
            remedies.append(f"ask for more different codes (diversity: {2 * self.diversity or 1:g})")
        if self.joint_bits < self.bits:
            remedies.append(f"let the entropy know how bits go together (joint_bits: {min(self.bits, 2 * self.joint_bits)})")
        if self.entropy_start <= 1:
            remedies.append("begin with a stronger entropy loss (entropy_start: 3, entropy_samples: a tenth of the budget)")
        return remedies


class BinarySettings(ImplicitSettings):
    """What the settings of :class:`BinaryQuantizer`'s kinds share."""

    bits: int = Field(12, ge=1, description="L; the codebook has 2^L codes")
    groups: int = Field(1, ge=1, description="indices a vector: 18 bits in 2 groups are two codes out of 512 instead of one out of 262,144")
    bit_order: BitOrder = Field("little", description="whether an index's first bit is worth least (little) or most (big)")
    entropy: float = Field(0.1, ge=0, description="weight of the entropy loss")
    diversity: float = Field(1.0, ge=0, description="gamma, of the entropy of all codes in it")
    temperature: float = Field(1.0, gt=0, description="tau of the soft assignment; far below 1 its gradient vanishes")
    commitment: float = Field(0.0, ge=0, description="weight of the loss that keeps the encoder near its codes")
    joint_bits: int = Field(9, ge=1, le=_MOST_BITS, description="bits whose joint distribution the entropy of all codes knows")
    entropy_start: float = Field(1.0, ge=0, description="factor on the entropy's weight in the beginning, falling linearly to 1")
    entropy_samples: int = Field(0, ge=0, description="samples seen when it has")

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
        """Channels of a code."""
        return self.bits
