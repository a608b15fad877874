"""Ways to draw several codebooks, on codes whose answer is known: what each can learn, how many steps it draws in, and how long that takes.

    python benchmarks/codebooks.py
    python benchmarks/codebooks.py --quick    # a smoke run

A frame's first code is drawn evenly; each further one follows from the one before it, but for a tenth that are drawn anew.
So the least possible loss is known, and what a way keeps above it is what it cannot see. All ways have one transformer of two layers and
as many steps of training.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch import Tensor

from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.generation.plan import SequencePlan
from jielong.heads.depth import Depth
from jielong.heads.softmax import Softmax
from jielong.networks.transformer import Transformer, TransformerConfig
from jielong.orders.base import Order
from jielong.orders.coarse_to_fine import CoarseToFineOrder
from jielong.orders.raster import Raster, RasterOrder

FRAMES, BOOKS, CODES, SPARED = 8, 4, 8, 0.1


def frames(count: int, seed: int) -> Tensor:
    """Codes ``(B, T, K)``."""
    generator = torch.Generator().manual_seed(seed)
    fresh = torch.randint(0, CODES, (count, FRAMES, BOOKS), generator=generator)
    anew = torch.rand(count, FRAMES, BOOKS, generator=generator) < SPARED
    codes = fresh.clone()
    for book in range(1, BOOKS):
        follows = (3 * codes[..., book - 1] + book) % CODES
        codes[..., book] = torch.where(anew[..., book], fresh[..., book], follows)
    return codes


def least() -> float:
    """The entropy of a code in nats, averaged over the codebooks."""
    likely, other = 1 - SPARED + SPARED / CODES, SPARED / CODES
    return (math.log(CODES) - (BOOKS - 1) * (likely * math.log(likely) + (CODES - 1) * other * math.log(other))) / BOOKS


def trained(order: Order, head: Softmax | Depth, steps: int) -> Generator:
    """A generator after so many steps of 32 items."""
    torch.manual_seed(0)
    layout = Layout((FRAMES,), BOOKS, CODES)
    axes = len(SequencePlan.of(order, layout).layout.grid)
    model = Generator(layout, order, Transformer(TransformerConfig(layers=2, width=64, heads=4), axes=axes), head.build(64, layout))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(Tokens(frames(32, step), layout)).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def main() -> None:
    """Train every way, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250, help="of training, 32 items each")
    parser.add_argument("--quick", action="store_true", help="two steps and few clips: whether it runs")
    arguments = parser.parse_args()
    steps, clips, measured = (2, 1, 8) if arguments.quick else (arguments.steps, 16, 512)
    depth = Depth(layers=1, width=64, heads=4)
    ways: list[tuple[str, Order, Softmax | Depth]] = [
        ("raster, parallel", RasterOrder(), Softmax()),
        ("raster, delay", Raster(pattern="delay").build(), Softmax()),
        ("raster, coarse_first", Raster(pattern="coarse_first").build(), Softmax()),
        ("levels", CoarseToFineOrder(), Softmax()),
        ("raster, flatten", Raster(pattern="flatten").build(), Softmax()),
        ("raster, parallel", RasterOrder(), depth),
    ]
    print("| order | head | steps a clip | nats above the least | CPU ms a clip |\n|---|---|---|---|---|")
    heldout = frames(measured, 1_000_000)
    for name, order, head in ways:
        model = trained(order, head, steps)
        with torch.no_grad():
            above = float(model.loss(Tokens(heldout, model.layout))) - least()
        model.eval().generate(count=1)
        begun = time.process_time()
        model.eval().generate(count=clips, batch=1)
        taken = (time.process_time() - begun) / clips
        print(f"| {name} | {head.name} | {len(model.plan.spans)} | {above:.3f} | {1_000 * taken:.0f} |", flush=True)


if __name__ == "__main__":
    main()
