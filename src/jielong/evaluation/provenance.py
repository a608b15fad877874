"""A number is worth what is known of how it was made: every metric returns its value together with its protocol."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.core.version import __version__
from jielong.media.images import to_bytes


@dataclass(frozen=True)
class Measurement:
    """One figure and how it was made.

    Attributes:
        name: Which metric.
        value: The figure.
        n: Number of items behind it.
        details: Protocol and provenance: weights, reference, resizing, rounding, seeds, warnings. JSON values only.
    """

    name: str
    value: float
    n: int
    details: JSON = field(default_factory=dict)

    def number(self, name: str) -> float:
        """A number among the details; raises ``TypeError`` where it is no number."""
        value = self.details[name]
        if not isinstance(value, int | float):
            raise TypeError(f"{name} of {self.name} is no number: {value!r}")
        return value

    def to_json(self) -> JSON:
        """As a plain dictionary, ready for :func:`json.dumps`."""
        return asdict(self)

    def __str__(self) -> str:
        warning = f" ({self.details['warning']})" if "warning" in self.details else ""
        return f"{self.name} {self.value:.4g}, n={self.n}{warning}"


def check_pictures(pictures: Tensor, what: str = "pictures") -> None:
    """Refuse what is not a batch of pictures in [-1, 1], before it becomes a plausible but wrong figure.

    Raises:
        ValueError: if the shape, the type or the range is another one, or numbers are not finite.
    """
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or not len(pictures):
        raise ValueError(f"{what} must be (batch, 1 or 3, height, width) with a picture at least, not {tuple(pictures.shape)}")
    if not pictures.is_floating_point():
        raise ValueError(f"{what} must be float in [-1, 1], not {pictures.dtype}; divide 8-bit values by 127.5 and subtract 1")
    if not torch.isfinite(pictures).all():
        raise ValueError(f"{what} hold numbers that are not finite")
    # A decoder overshoots a little and rounding clamps it; 0..255 is a mistake.
    if pictures.abs().max() > 8:
        raise ValueError(f"{what} must be in [-1, 1], but reach {pictures.abs().max().item():.4g}")


def picture_hash(pictures: Tensor) -> str:
    """SHA-256 of pictures as 8-bit values, order and shape included: names a set of pictures whatever made it."""
    pixels = to_bytes(pictures).contiguous()
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    digest.update(pixels.numpy().tobytes())
    return digest.hexdigest()


def package_version(package: str) -> str | None:
    """Version of an installed distribution, or ``None``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions that a figure may depend on."""
    return {"jielong": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def machine() -> str:
    """Processor, threads and versions, in words."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    threads = torch.get_num_threads()
    return f"{name}, {threads} {'thread' if threads == 1 else 'threads'}; torch {version('torch')}, Python {platform.python_version()}"
