"""Retrieval: R@1 of each image among 100 captions, by the two-tower scorer.

python -m jielong.evaluation.retrieval train --out FOLDER     train the scorer on the training split
python -m jielong.evaluation.retrieval real                   R@1 of the real held-out images
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from jielong.evaluation.neighbours import by_group
from jielong.evaluation.provenance import Measurement, picture_hash
from jielong.evaluation.scorer import Scorer, TextEncoder, shipped_folder

Score = Callable[[Tensor, Sequence[str]], Tensor]
"""Scores ``(N, M)`` of images ``(N, C, H, W)`` and ``M`` captions."""


def candidate_columns(target: int, pool: int, candidates: int, seed: int, index: int) -> Tensor:
    """Columns of ``candidates - 1`` distractors of image ``index``: captions of the pool other than ``target``, without repeats.

    Seeded by (seed, index), so that real and generated images of one caption have the same distractors.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    others = torch.randperm(pool - 1, generator=generator)[: candidates - 1]
    return others + (others >= target)  # skip the target


def hits(scores: Tensor, targets: Sequence[int], candidates: int = 100, seed: int = 0) -> Tensor:
    """Whether the target caption of each image scores strictly higher than all its distractors (a tie is a miss).

    Args:
        scores: ``(N, P)``, images against a pool of distinct captions.
        targets: Column of the target caption of each image.
        candidates: Number of captions per image, including the target.
        seed: Seed of the distractors.

    Returns:
        ``(N,)`` bool.
    """
    result = []
    for index, (row, column) in enumerate(zip(scores, targets, strict=True)):
        distractors = candidate_columns(column, scores.shape[1], candidates, seed, index)
        result.append(bool(row[column] > row[distractors].max()))
    return torch.tensor(result)


def retrieval_at_1(
    pictures: Tensor,
    captions: Sequence[str],
    pool: Sequence[str] | None = None,
    candidates: int = 100,
    seed: int = 0,
    scorer: Score | None = None,
    name: str = "retrieval_at_1",
    features: Tensor | None = None,
    groups: Sequence[str | None] = (),
) -> Measurement:
    """Fraction of images whose target caption scores highest of ``candidates``; distractors are from a pool of distinct captions.

    Protocol of the reported values: captions of the held-out split, style included, as pool and as prompts; 100 candidates; seed 0; the
    shipped scorer. The same call with the real images and ``name="retrieval_at_1_real"`` gives the upper bound.

    Args:
        pictures: ``(N, C, H, W)`` in [-1, 1].
        captions: Target caption of each image.
        pool: Captions that distractors are taken from; ``captions`` by default.
        candidates: Number of captions per image, including the target.
        seed: Seed of the distractors.
        scorer: Scoring function; the shipped scorer by default.
        name: Name of the measurement.
        features: Of the images by the scorer's extractor, if they are known.
        groups: Class of each image, by which the figure is also reported.

    Raises:
        ValueError: if the numbers of captions and images differ, or the pool has fewer than ``candidates`` distinct captions.
    """
    if len(pictures) != len(captions) or not captions:
        raise ValueError(f"retrieval needs one caption per image, but there are {len(captions)} captions and {len(pictures)} images")
    columns = {text: column for column, text in enumerate(dict.fromkeys([*(pool or ()), *captions]))}
    if not 2 <= candidates <= len(columns):
        raise ValueError(f"retrieval among {candidates} captions needs a pool of as many distinct ones, but there are {len(columns)}")
    scorer = scorer or Scorer.load()
    if features is not None and isinstance(scorer, Scorer):
        scores = scorer.of_features(features, list(columns))
    else:
        scores = scorer(pictures, list(columns))
    correct = hits(scores, [columns[text] for text in captions], candidates, seed)
    value = correct.double().mean().item()
    details = {
        "protocol": f"target caption strictly best of {candidates}, distractors without repeats from {len(columns)} distinct captions",
        "candidates": candidates,
        "pool": len(columns),
        "seed": seed,
        "chance": 1 / candidates,
        "standard_error": math.sqrt(value * (1 - value) / len(correct)),
        "pictures_sha256": picture_hash(pictures),
        **by_group(correct, groups),
    }
    if isinstance(scorer, Scorer):
        details |= scorer.provenance()
    return Measurement(name, value, len(correct), details)


def _train(out: Path, data: str, seed: int) -> None:
    from jielong.core.files import write_bytes
    from jielong.data import open_data
    from jielong.evaluation.features import FeatureExtractor
    from jielong.evaluation.scorer_training import Facts, Settings, card, extract, fit, write

    settings = Settings(seed=seed)
    images = open_data(data, split="train")
    extractor, text_encoder = FeatureExtractor(), TextEncoder()
    towers = fit(extract(images, settings, extractor, text_encoder, log=True), settings, log=True)
    facts: Facts = {
        "data": data,
        "split": "train",
        "pictures": len(images),
        "data_fingerprint": images.fingerprint,
        "features": extractor.provenance(),
        "text": text_encoder.provenance(),
        "command": f"python -m jielong.evaluation.retrieval train --data {data} --seed {seed}",
    }
    record = write(out, towers, settings, facts)
    real = _real(data, Scorer.load(out, extractor))
    write_bytes(out / "card.md", card(record, real).encode())
    print(f"wrote {out}: {real}")


def _real(data: str, scorer: Scorer) -> Measurement:
    from jielong.data import open_data

    images = open_data(data, split="heldout")
    return retrieval_at_1(images.media(range(len(images))), images.captions, scorer=scorer, name="retrieval_at_1_real")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m jielong.evaluation.retrieval", description="The two-tower scorer.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train the scorer on the training split and write it")
    train.add_argument("--out", type=Path, default=None, help="output folder (default: the zoo's)")
    train.add_argument("--seed", type=int, default=0)
    real = commands.add_parser("real", help="R@1 of the real held-out images")
    real.add_argument("--scorer", type=Path, default=None, help="folder of the scorer (default: the zoo's)")
    for command in (train, real):
        command.add_argument("--data", default="emoji", help="a set with captions")
    given = parser.parse_args(arguments)
    if given.command == "train":
        _train(given.out or shipped_folder(), given.data, given.seed)
    else:
        print(json.dumps(_real(given.data, Scorer.load(given.scorer)).to_json(), indent=2))


if __name__ == "__main__":
    main()
