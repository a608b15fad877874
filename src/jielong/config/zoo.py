"""Shipped models, the checkpoint folders of the distribution ``jielong-zoo``, and what a checkpoint says of itself. Imports no torch."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from jielong.core.json import JSON

FIGURES = {
    "psnr": "PSNR {:.1f} dB",
    "ssim": "SSIM {:.2f}",
    "codebook_usage": "codebook usage {:.1%}",
    "bits_per_dimension": "{:.2f} bits/dim",
    "edit_goal": "{:.1%} of the attributes as instructed",
    "edit_kept": "{:.1%} of the others kept",
    "frechet": "Fréchet distance {:.0f}",
    "motion_frechet": "of motion {:.0f}",
    "attribute_accuracy": "attribute accuracy {:.1%}",
    "solved": "missions solved {:.1%}",
    "legal": "legal transitions {:.1%}",
    "retrieval_at_1": "R@1 of 100 {:.1%}",
    "mel_distance": "mel distance {:.1f} dB",
    "bitrate": "{:g} kbit/s",
    "wer": "WER {:.1%}",
    "speaker_similarity": "speaker similarity {:.2f}",
    "dnsmos": "DNSMOS {:.2f}",
    "class_at_1": "nearest class {:.0%}",
    "times_real_time": "{:.1f}x real time",
}
"""Figures that tables show, by their names in ``evaluation.json``."""
SHORT = {
    "attribute_accuracy": "{:.0%} right",
    "edit_goal": "{:.0%} as instructed",
    "solved": "{:.0%} solved",
    "retrieval_at_1": "R@1 {:.0%}",
    "wer": "WER {:.0%}",
    "class_at_1": "class {:.0%}",
    "psnr": "{:.1f} dB",
    "mel_distance": "mel {:.1f} dB",
    "bits_per_dimension": "{:.2f} bits/dim",
    "frechet": "FD {:.0f}",
}
"""The one figure of a list, the first that there is."""


def zoo() -> dict[str, Path]:
    """Shipped models by name; none where ``jielong-zoo`` is not installed."""
    try:
        folder = Path(importlib.import_module("jielong_zoo").path()) / "models"
    except ImportError:
        return {}
    return {item.name: item for item in sorted(folder.glob("*")) if (item / "recipe.yaml").exists()}


def card_line(folder: Path) -> str:
    """The first line of a model's card that is no heading and no metadata; empty without a card."""
    card = folder / "README.md"
    text = card.read_text("utf-8") if card.exists() else ""
    lines = (text.split("\n---\n", 1)[-1] if text.startswith("---\n") else text).splitlines()
    return next((line for line in lines if line.strip() and not line.startswith("#")), "")


def read_json(path: Path) -> JSON:
    """A file of a checkpoint; empty where there is none, or it is damaged."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def description(folder: Path) -> JSON:
    """What a checkpoint's ``model.json`` holds."""
    return read_json(folder / "model.json")


def zoo_of(kind: str) -> dict[str, Path]:
    """Shipped models of one kind of media (``image``, ``audio``, ``video``) by name; without those whose ``model.json`` is damaged."""
    found = {}
    for name, folder in zoo().items():
        media = description(folder).get("media")
        if isinstance(media, dict) and media.get("kind") == kind:
            found[name] = folder
    return found


_SIZED = {"image": "pictures", "video": "videos"}
"""Kinds of media whose size is said, as several items."""


def kind_text(folder: Path) -> str:
    """What a checkpoint without a model card is: ``generator of 64 x 64 pictures``, of ``16 x 64 x 64 videos``, or of sound."""
    described = description(folder)
    media = described.get("media")
    if not isinstance(media, dict) or not {"kind", "size"} <= set(media):
        return ""
    made = "tokenizer" if described.get("tokenizer_sha256") is None else "generator"
    of = f"{' x '.join(map(str, media['size']))} {_SIZED[media['kind']]}" if media["kind"] in _SIZED else media["kind"]
    return f"{made} of {of}"


def figures(evaluation: Mapping[str, object]) -> list[str]:
    """The held-out figures of ``evaluation.json``, with those of real data where there are any."""
    found = []
    for name, form in FIGURES.items():
        if isinstance(value := evaluation.get(name), float):
            real = None if name == "frechet" else evaluation.get(f"{name}_real")  # of other items than the samples': they do not compare
            number = re.search(r"\{.*?\}", form)
            beside = f" (real {number[0].format(real)})" if isinstance(real, float) and number is not None else ""
            found.append(form.format(value) + beside)
    return found


def short_figure(evaluation: Mapping[str, object]) -> str:
    """The first figure of :data:`SHORT`; empty without one."""
    return next((form.format(evaluation[name]) for name, form in SHORT.items() if isinstance(evaluation.get(name), float)), "")


def file_size(path: Path) -> str:
    """The size of a file, such as ``7.8 MB``; ``no file`` where there is none."""
    return f"{path.stat().st_size / 1e6:.1f} MB" if path.exists() else "no file"
