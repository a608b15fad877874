"""Vector quantizer against ``vector-quantize-pytorch`` on the same state and vectors, turn by turn in one process.

    OMP_NUM_THREADS=2 python benchmarks/quantizer.py

*forward* is a lookup in evaluation mode; *training* is forward, backward to the vectors (straight-through and commitment) and the step of
the averaged codebook. Both implementations start every repeat from the same state. Where the public one's full table of distances would not
fit in half of the free memory, both are given the vectors in equal pieces, one by one (the column ``piece``). Indices of the lookup
are compared; a difference is only called a tie if in double precision both codes are equally near up to float32 rounding.

The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from jielong.quantizers.vector import VectorQuantizer

# What the public implementation holds at its peak, in bytes a (vector, code) pair: three float distance tables kept by autograd, a long
# and a float one-hot table.
PEAK_BYTES = 24


def pair(codes: int, dim: int) -> tuple[VectorQuantizer, VectorQuantize]:
    """Both quantizers with the same settings and codebook."""
    ours = VectorQuantizer(codes=codes, dim=dim, decay=0.99, commitment=0.25, kmeans_iterations=0, restart_below=0.0)
    theirs = VectorQuantize(dim=dim, codebook_size=codes, decay=0.99, commitment_weight=0.25, rotation_trick=False)
    start = torch.randn(codes, dim, generator=torch.Generator().manual_seed(1))
    ours.codebook.copy_(start)
    ours.sums.copy_(start)
    theirs._codebook.embed.copy_(start)
    theirs._codebook.embed_avg.copy_(start)
    return ours, theirs


def in_turn(runs: list[tuple[nn.Module, Callable[[], None]]], repeats: int) -> list[float]:
    """Median seconds of each run; they alternate, each from its module's first state, after one round that is not counted."""
    states = [{name: value.clone() for name, value in module.state_dict().items()} for module, _ in runs]
    taken: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for (module, run), state, times in zip(runs, states, taken, strict=True):
            module.load_state_dict(state)
            start = time.perf_counter()
            run()
            if repeat:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def ties(vectors: Tensor, codes: Tensor, mine: Tensor, other: Tensor) -> int:
    """How many of the differing choices are equally near up to float32 rounding of the largest term of a squared distance."""
    at = (mine != other).nonzero().flatten()
    z, a, b = vectors[at].double(), codes[mine[at]].double(), codes[other[at]].double()
    gap = ((z - a).square().sum(1) - (z - b).square().sum(1)).abs()
    scale = z.square().sum(1) + torch.maximum(a.square().sum(1), b.square().sum(1))
    return int((gap <= 4 * vectors.shape[1] ** 0.5 * torch.finfo(torch.float32).eps * scale).sum())


def free_memory() -> int:
    """Bytes of memory free for use."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except OSError:
        return 8 << 30


def measure(count: int, codes: int, dim: int, repeats: int) -> dict[str, float | int]:
    """One case."""
    vectors = torch.randn(count, dim, generator=torch.Generator().manual_seed(0))
    piece = count
    while piece > 1 and piece * codes * PEAK_BYTES > free_memory() // 2:
        piece = -(-piece // 2)
    pieces = vectors.split(piece)
    ours, theirs = pair(codes, dim)

    ours.eval()
    theirs.eval()
    mine: list[Tensor] = []
    others: list[Tensor] = []

    @torch.no_grad()
    def forward_ours() -> None:
        mine[:] = [ours(part).indices[..., 0] for part in pieces]

    @torch.no_grad()
    def forward_theirs() -> None:
        others[:] = [theirs(part)[1] for part in pieces]

    ours_forward, theirs_forward = in_turn([(ours, forward_ours), (theirs, forward_theirs)], repeats)
    a, b = torch.cat(mine), torch.cat(others)
    different = int((a != b).sum())

    def train_ours() -> None:
        for part in pieces:
            quantized = ours(part.clone().requires_grad_())
            (quantized.values.sum() + quantized.losses["commitment"]).backward()

    def train_theirs() -> None:
        for part in pieces:
            values, _, loss = theirs(part.clone().requires_grad_())
            (values.sum() + loss.sum()).backward()

    ours.train()
    theirs.train()
    ours_training, theirs_training = in_turn([(ours, train_ours), (theirs, train_theirs)], repeats)
    return {
        "codes": codes,
        "dim": dim,
        "piece": piece,
        "forward_s": ours_forward,
        "public_forward_s": theirs_forward,
        "forward_speedup": theirs_forward / ours_forward,
        "training_s": ours_training,
        "public_training_s": theirs_training,
        "training_speedup": theirs_training / ours_training,
        "equal_indices": 1 - different / count,
        "different": different,
        "ties": ties(vectors, ours.codebook, a, b) if different else 0,
        "codebook_difference": float((ours.codebook - theirs.codebook).abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=65_536)
    parser.add_argument("--codes", type=int, nargs="+", default=[1024, 16_384])
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 256])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    print(f"{options.vectors:,} vectors, float32, {options.threads} threads, torch {torch.__version__}; median of {options.repeats}")
    print(f"{'codes':>7}{'dim':>5}{'piece':>8} | {'forward':>9}{'public':>9}{'':>8} | {'training':>9}{'public':>9}{'':>8} | equal indices")
    cases = []
    for codes in options.codes:
        for dim in options.dims:
            case = measure(options.vectors, codes, dim, options.repeats)
            cases.append(case)
            print(
                f"{codes:>7,}{dim:>5}{case['piece']:>8,} | {case['forward_s']:>8.3f}s{case['public_forward_s']:>8.3f}s"
                f"{case['forward_speedup']:>7.2f}x | {case['training_s']:>8.3f}s{case['public_training_s']:>8.3f}s"
                f"{case['training_speedup']:>7.2f}x | {case['equal_indices']:.6%} ({case['different']} differ, {case['ties']} are ties)",
                flush=True,
            )
    summary = {
        "benchmark": "quantizer",
        "vectors": options.vectors,
        "threads": options.threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "least_speedup": min(min(case["forward_speedup"], case["training_speedup"]) for case in cases),
        "all_equal_but_ties": all(case["different"] == case["ties"] for case in cases),
        "cases": cases,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
