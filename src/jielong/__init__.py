"""Jielong: every way of generating images, sound and video is a choice of five parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jielong.system import System

__version__ = "0.1.0"
__all__ = ["load"]


def load(name_or_folder: str, device: str = "auto") -> System:
    """Load a shipped model by name (``maskgit-emoji``) or a checkpoint folder; see :func:`jielong.system.load`.

    Args:
        name_or_folder: The model.
        device: ``auto``, ``cpu``, ``cuda[:i]`` or ``mps``.
    """
    from jielong.system import load as load_system  # torch is slow to import: only when it is needed

    return load_system(name_or_folder, device)


def __dir__() -> list[Any]:
    return [*__all__, "__version__"]
