"""The three meanings of "alike", switched on one after the other: the same small tokenizer, trained equally long with each set of losses.

    python benchmarks/loss_terms.py --samples 3200
    python benchmarks/loss_terms.py --quick            # a smoke run

Prints a table of held-out figures (higher PSNR and SSIM are better, lower perceptual and Frechet distances are) and, as the last line,
the same as one JSON object. Perceptual and adversarial terms join at half of the budget, as they do in the recipe ``vqgan``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from quick import pictures
from rich.console import Console
from rich.table import Table

from jielong import system
from jielong.config import recipe
from jielong.data.opening import open_data
from jielong.evaluation.evaluate import evaluate
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.frechet import frechet
from jielong.evaluation.reconstruction import perceptual_distance
from jielong.training import experiment

TERMS = {
    "L1": ["losses.regression.kind=l1", "losses.perceptual=null", "losses.adversarial=null"],
    "L2": ["losses.perceptual=null", "losses.adversarial=null"],
    "L2 + perceptual": ["losses.adversarial=null"],
    "L2 + adversarial": ["losses.perceptual=null"],
    "L2 + perceptual + adversarial": [],
}
QUICK = [
    "data.size=16",
    "tokenizer.vq.autoencoder.convolutional={patch: 2, channels: [16, 16], blocks: [1, 1]}",
    "tokenizer.vq.quantizer.vector.codebook_size=16",
    "train.batch=8",
    "train.warmup=8",
    "train.sample_every=16",
]
FIGURES = ("psnr", "ssim", "perceptual", "frechet", "codebook_usage")


def measure(overrides: list[str], samples: int, out: Path, data: str) -> dict[str, float]:
    """Train with these losses and measure on the held-out split."""
    joins = samples // 2
    starts = [f"losses.{term}.start_samples={joins}" for term in ("perceptual", "adversarial") if f"losses.{term}=null" not in overrides]
    experiment.run(
        recipe.load("vqgan", [f"train.samples={samples}", "train.warmup=320", *starts, *overrides]), out, data=data, progress=False
    )
    trained = system.load(str(out), "cpu")
    found = {name: float(measured.value) for name, measured in evaluate(trained).figures.items()}
    heldout = open_data(data, "heldout", settings=trained.recipe.data)
    real = heldout.media(range(len(heldout)))
    rebuilt = trained.decode(trained.encode(real))
    extractor = FeatureExtractor()
    found["perceptual"] = float(perceptual_distance(rebuilt, real, extractor).value)
    found["frechet"] = float(frechet(rebuilt, real, extractor).value)
    return {name: round(found[name], 4) for name in FIGURES if name in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3200, help="training samples of each run")
    parser.add_argument("--quick", action="store_true", help="a small network, two steps and few pictures: whether it runs")
    arguments = parser.parse_args()
    samples, small = (16, QUICK) if arguments.quick else (arguments.samples, [])
    data = pictures() if arguments.quick else "emoji"
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, overrides in TERMS.items():
            results[name] = measure([*small, *overrides], samples, Path(scratch) / name.replace(" ", ""), data)
    table = Table("losses", *FIGURES)
    for name, figures in results.items():
        table.add_row(name, *(f"{figures[key]:.4g}" for key in FIGURES))
    Console().print(table)
    print(json.dumps({"samples": samples, "results": results}))


if __name__ == "__main__":
    main()
