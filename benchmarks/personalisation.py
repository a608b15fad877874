"""Personalised subjects of ``faces``: are they recognised among 100, and is the rest of the caption still followed?

python benchmarks/personalisation.py --model maskgit-faces --subjects 20
python benchmarks/personalisation.py --model flow-faces --subjects 20 --method both --samples 6400

A subject is a combination of the attributes that make a person (style, hair, hat, skin, eye color, glasses, facial hair, earrings), of
which the set holds at least ten pictures; expression, eyes and clothes vary, and so does what captions do not name. Combinations of the
held-out split come first, since the models saw no picture of these. ``--pictures`` of a subject are trained on, with captions of what
varies ("a picture of @me, red sweater, smiling"), and the others are held out. Then ``--draws`` pictures are drawn for what varies in
held-out ones.

Recognised: the mean features of the subject's held-out pictures are nearer than those of all other subjects; once by features of
EfficientNet-lite2, once by the probabilities that the judge of attributes gives to values of the subject's attributes. The same for real
held-out pictures, each left out of its own mean, says what is possible. Followed: the judge reads expression, eyes and clothes as named.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from quick import trained
from torch import Tensor
from torch.nn import functional as F

from jielong.data.opening import open_data
from jielong.data.sets import MediaSet
from jielong.data.splits import declared_split, fraction
from jielong.evaluation.attributes import SILENT, AttributeJudge
from jielong.evaluation.features import FeatureExtractor
from jielong.media.images import from_tensor
from jielong.system import load
from jielong.training.experiment import run
from jielong.training.personalise import Personalisation, plan

NAME = "@me"
IDENTITY = ("style", "hair", "hair_color", "hat", "hat_color", "skin", "eye_color", "glasses", "facial_hair", "earrings")
VARIED = ("eyes", "clothes", "clothes_color", "expression")
HELDOUT = 5
"""Held-out pictures that a subject has at least."""
MOST_HELDOUT = 10


@dataclass(frozen=True)
class Subject:
    """A person of the set: the rows of pictures to train on, and of held-out ones."""

    values: tuple[str | None, ...]
    trained: list[int]
    heldout: list[int]
    unseen: bool

    @property
    def name(self) -> str:
        """The values in words."""
        return ", ".join(value for value in self.values if value not in (None, *SILENT))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="maskgit-faces", help="a generator of faces from captions")
    parser.add_argument("--subjects", type=int, default=20, help="subjects to personalise")
    parser.add_argument("--among", type=int, default=100, help="subjects to recognise them among")
    parser.add_argument("--pictures", type=int, default=5, help="of a subject, to train on")
    parser.add_argument("--draws", type=int, default=8, help="of a subject")
    parser.add_argument("--method", choices=("lora", "textual-inversion", "both"), default="lora")
    parser.add_argument("--samples", type=int, default=Personalisation.samples)
    parser.add_argument("--rank", type=int, default=Personalisation.rank)
    parser.add_argument("--vectors", type=int, default=Personalisation.vectors)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--prior", type=int, default=0, help="class pictures of prior preservation, from the model's data")
    parser.add_argument("--weight", type=float, default=1.0, help="of the adapter")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="a folder that keeps the adapters; a run in it is gone on with")
    parser.add_argument("--quick", action="store_true", help="a model of two steps")
    options = parser.parse_args()
    if options.quick:
        options.model, options.subjects, options.among, options.draws, options.samples = trained("maskgit-tiny"), 1, 3, 2, 16
    if not 1 <= options.subjects <= options.among:
        parser.error(f"--subjects is 1 to {options.among}, as many as --among")
    return options


def find_subjects(data: MediaSet, judged: Sequence[str], among: int, pictures: int) -> list[Subject]:
    """``among`` subjects that differ from each other in at least one attribute that the judge reads."""
    rows: dict[tuple[str | None, ...], list[int]] = {}
    for row, values in enumerate(zip(*(data.columns[name] for name in IDENTITY), strict=True)):
        rows.setdefault(values, []).append(row)
    large = [values for values, found in rows.items() if len(found) >= pictures + HELDOUT]
    splits = [declared_split(data.source.items[index].split) for index in data.indices]
    unseen = {values: all(splits[row] == "heldout" for row in rows[values]) for values in large}
    found: dict[tuple[str | None, ...], Subject] = {}
    for values in sorted(large, key=lambda each: (not unseen[each], fraction("|".join(map(str, each))))):
        key = tuple(value for name, value in zip(IDENTITY, values, strict=True) if name in judged)
        heldout = rows[values][pictures : pictures + MOST_HELDOUT]
        found.setdefault(key, Subject(values, rows[values][:pictures], heldout, unseen[values]))
    if len(found) < among:
        raise SystemExit(f"{data.name} has {len(found)} subjects with {pictures + HELDOUT} pictures, fewer than --among {among}")
    return list(found.values())[:among]


def caption(data: MediaSet, row: int) -> str:
    """The name, and what varies in a picture."""
    eyes, clothes, colour, expression = (data.columns[name][row] for name in VARIED)
    look = {"closed": "closed eyes", "winking": "winking"}.get(str(eyes))
    worn = " ".join(each for each in (colour, clothes) if each)
    return ", ".join(each for each in (f"a picture of {NAME}", look, worn, expression) if each)


def personalised(options: argparse.Namespace, data: MediaSet, subject: Subject, folder: Path) -> Path:
    """Train an adapter on a subject; its folder."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for row, picture in zip(subject.trained, data.media(subject.trained), strict=True):
        from_tensor(picture).save(pictures / f"{row}.png")
        (pictures / f"{row}.txt").write_text(caption(data, row), encoding="utf-8")
    wanted = Personalisation(
        NAME,
        method=options.method,
        rank=options.rank,
        vectors=options.vectors,
        samples=options.samples,
        lr=options.lr,
        prior=options.prior,
        prior_from="data",
        noun="person",
    )
    recipe = plan(options.model, pictures, folder / "adapter", wanted, device=options.device)
    run(recipe, folder / "adapter", device=options.device, progress=False, evaluate=False)
    return folder / "adapter"


class Spaces:
    """Pictures as features of a network, and as the judge's probabilities of the values of subjects' attributes."""

    def __init__(self, judge: AttributeJudge) -> None:
        self.judge, self.extractor = judge, FeatureExtractor()

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        """``(N, D)`` of pictures ``(N, 3, H, W)``, by the name of the space."""
        size = self.judge.record.size
        fitted = pictures if pictures.shape[-1] == size else F.interpolate(pictures, (size, size), mode="bicubic", antialias=True)
        logits = self.judge.network(fitted.clamp(-1, 1))
        return {
            "features": self.extractor.extract(pictures).values,
            "judge": torch.cat([logits[name].softmax(1) for name in IDENTITY if name in logits], 1),
        }


def share_nearest(points: Tensor, means: Tensor, own: int, size: int | None = None) -> list[bool]:
    """Whether the nearest mean ``(M, D)`` of each point is its own; ``size``: of how many points that is the mean, if it is one of them."""
    hits = []
    for point in points:
        centres = means.clone()
        if size is not None:
            centres[own] = (size * means[own] - point) / (size - 1)
        hits.append(int(torch.cdist(point[None], centres)[0].argmin()) == own)
    return hits


def followed(data: MediaSet, rows: Sequence[int], drawn: Tensor, judge: AttributeJudge) -> list[bool]:
    """Whether the judge reads each attribute that a caption names as named."""
    found, hits = judge.read(drawn), []
    for name in VARIED:
        for row, seen in zip(rows, found.get(name, ()), strict=name in found):
            value = data.columns[name][row]
            if value is not None and value not in SILENT and value not in judge.record.unread.get(name, ()):
                hits.append(seen == value)
    return hits


def share(groups: Sequence[Sequence[bool]]) -> dict[str, float | int]:
    """The mean of all, and its standard error over groups: values of one subject are correlated."""
    means = torch.tensor([sum(group) / len(group) for group in groups if group], dtype=torch.float64)
    everything = [hit for group in groups for hit in group]
    error = float(means.std() / math.sqrt(len(means))) if len(means) > 1 else math.nan
    return {"value": sum(everything) / len(everything), "standard_error": error if math.isfinite(error) else 0.0, "n": len(everything)}


def main() -> None:
    """Train, draw, measure, and print a line a subject and one JSON object."""
    options = arguments()
    judge = AttributeJudge.of("faces")
    if judge is None:
        raise SystemExit("the judge of faces is in the distribution jielong-zoo, which is not installed; pip install ./zoo")
    data = open_data("faces", None, size=judge.record.size)
    subjects, spaces = find_subjects(data, list(judge.classes), options.among, options.pictures), Spaces(judge)
    heldout = [spaces(data.media(each.heldout)) for each in subjects]
    means = {name: torch.stack([each[name].mean(0) for each in heldout]) for name in heldout[0]}
    hits: dict[str, list[list[bool]]] = {name: [] for name in ("followed", *means, *(f"{name}_real" for name in means))}
    with tempfile.TemporaryDirectory() as scratch:
        for index, subject in enumerate(subjects[: options.subjects]):
            started, folder = time.perf_counter(), (options.out or Path(scratch)) / f"{index:03d}"
            adapter = personalised(options, data, subject, folder)
            system = load(options.model, options.device, adapters=[f"{adapter}:{options.weight}"])
            rows = [subject.heldout[draw % len(subject.heldout)] for draw in range(options.draws)]
            drawn = system.generate(text=[caption(data, row) for row in rows], seed=index).tensor
            points = spaces(drawn)
            for name, centres in means.items():
                hits[name].append(share_nearest(points[name], centres, index))
                hits[f"{name}_real"].append(share_nearest(heldout[index][name], centres, index, len(subject.heldout)))
            hits["followed"].append(followed(data, rows, drawn, judge))
            shown = "  ".join(f"{name} {sum(each[-1]) / max(1, len(each[-1])):.0%}" for name, each in hits.items())
            print(
                f"{index:3} {shown}  {time.perf_counter() - started:.0f} s  {subject.name}{' (unseen)' if subject.unseen else ''}",
                flush=True,
            )
    figures = {name: share(groups) for name, groups in hits.items()}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items() if key != "quick"}
    print(json.dumps({"figures": figures, "unseen": sum(each.unseen for each in subjects[: options.subjects]), "settings": settings}))


if __name__ == "__main__":
    main()
