"""Retrieval: among 100 captions, does a picture fit its own best?

python -m jielong.evaluation.retrieval train --out FOLDER     remake the scorer from the training split
python -m jielong.evaluation.retrieval real                   the score of the real held-out pictures
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from jielong.evaluation.provenance import Measurement, picture_hash
from jielong.evaluation.scorer import Scorer, TextReader, shipped_folder

Score = Callable[[Tensor, Sequence[str]], Tensor]
"""Pictures ``(N, C, H, W)`` and ``M`` captions to scores ``(N, M)``."""


def candidate_columns(own: int, pool: int, candidates: int, seed: int, index: int) -> Tensor:
    """Columns of the wrong captions that picture ``index`` is shown: ``candidates - 1`` of the pool, without its own and without repeats.

    Seeded by (seed, index), so that real and generated pictures of one caption face the same wrong captions.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    others = torch.randperm(pool - 1, generator=generator)[: candidates - 1]
    return others + (others >= own)  # skip the own caption


def hits(scores: Tensor, own: Sequence[int], candidates: int = 100, seed: int = 0) -> Tensor:
    """For each picture, whether its own caption scores strictly higher than all the wrong ones drawn for it (a tie is a miss).

    Args:
        scores: ``(N, P)``, pictures against a pool of distinct captions.
        own: Column of each picture's own caption.
        candidates: Captions each picture chooses from, its own included.
        seed: Of the draws.

    Returns:
        ``(N,)`` bool.
    """
    result = []
    for index, (row, column) in enumerate(zip(scores, own, strict=True)):
        wrong = candidate_columns(column, scores.shape[1], candidates, seed, index)
        result.append(bool(row[column] > row[wrong].max()))
    return torch.tensor(result)


def retrieval_at_1(
    pictures: Tensor,
    captions: Sequence[str],
    pool: Sequence[str] | None = None,
    candidates: int = 100,
    seed: int = 0,
    scorer: Score | None = None,
    name: str = "retrieval_at_1",
) -> Measurement:
    """Share of pictures whose own caption is the best of ``candidates``: itself and others drawn from a pool of distinct strings.

    The protocol of the reported figures: captions of the held-out split, style included, as pool and as prompts; 100 candidates; seed 0;
    the shipped scorer. The same call with the real pictures and ``name="retrieval_at_1_real"`` gives the ceiling.

    Args:
        pictures: ``(N, C, H, W)`` in [-1, 1].
        captions: What each should show.
        pool: Where wrong captions come from; ``captions`` by default.
        candidates: Captions each picture chooses from.
        seed: Of the wrong captions.
        scorer: Another judge; the shipped one by default.
        name: Of the measurement.

    Raises:
        ValueError: if there are not as many captions as pictures, or too few distinct ones in the pool.
    """
    if len(pictures) != len(captions) or not captions:
        raise ValueError(f"retrieval needs a caption a picture, not {len(captions)} for {len(pictures)}")
    columns = {text: column for column, text in enumerate(dict.fromkeys([*(pool or ()), *captions]))}
    if not 2 <= candidates <= len(columns):
        raise ValueError(f"retrieval among {candidates} captions needs a pool of as many distinct ones, but there are {len(columns)}")
    scorer = scorer or Scorer.load()
    right = hits(scorer(pictures, list(columns)), [columns[text] for text in captions], candidates, seed)
    share = right.double().mean().item()
    details = {
        "protocol": f"own caption strictly best among {candidates}, wrong ones drawn without repeats from {len(columns)} distinct captions",
        "candidates": candidates,
        "pool": len(columns),
        "seed": seed,
        "chance": 1 / candidates,
        "standard_error": math.sqrt(share * (1 - share) / len(right)),
        "pictures_sha256": picture_hash(pictures),
    }
    if isinstance(scorer, Scorer):
        details |= scorer.provenance()
    return Measurement(name, share, len(right), details)


def _train(out: Path, data: str, seed: int) -> None:
    from jielong.data import open_data
    from jielong.evaluation.features import FeatureExtractor
    from jielong.evaluation.scorer_training import Facts, Settings, card, extract, fit, write
    from jielong.media.images import write_bytes

    settings = Settings(seed=seed)
    images = open_data(data, split="train")
    extractor, reader = FeatureExtractor(), TextReader()
    towers = fit(extract(images, settings, extractor, reader, log=True), settings, log=True)
    facts: Facts = {
        "data": data,
        "split": "train",
        "pictures": len(images),
        "data_fingerprint": images.fingerprint,
        "features": extractor.provenance(),
        "text": reader.provenance(),
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
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m jielong.evaluation.retrieval", description="The two-tower scorer.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train the scorer on the training split and write it")
    train.add_argument("--out", type=Path, default=None, help="folder to write (default: the zoo's)")
    train.add_argument("--seed", type=int, default=0)
    real = commands.add_parser("real", help="score the real held-out pictures")
    real.add_argument("--scorer", type=Path, default=None, help="the scorer's folder (default: the zoo's)")
    for command in (train, real):
        command.add_argument("--data", default="emoji", help="a set with captions")
    given = parser.parse_args(arguments)
    if given.command == "train":
        _train(given.out or shipped_folder(), given.data, given.seed)
    else:
        print(json.dumps(_real(given.data, Scorer.load(given.scorer)).to_json(), indent=2))


if __name__ == "__main__":
    main()
