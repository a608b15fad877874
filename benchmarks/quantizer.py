"""Quantizers against ``vector-quantize-pytorch`` on the same state and vectors, turn by turn in one process.

    OMP_NUM_THREADS=2 python benchmarks/quantizer.py
    OMP_NUM_THREADS=2 python benchmarks/quantizer.py finite_scalar
    OMP_NUM_THREADS=2 python benchmarks/quantizer.py lookup_free
    OMP_NUM_THREADS=2 python benchmarks/quantizer.py binary_spherical
    OMP_NUM_THREADS=2 python benchmarks/quantizer.py residual
    python benchmarks/quantizer.py --quick                # a smoke run

*forward* is a lookup in evaluation mode; *training* is forward, backward to the vectors (straight-through and all losses) and the step of
the averaged codebooks; ours also counts the codes in use. Both implementations start every repeat from the same state. Where the
public one's tables of vectors by codes would not fit in half of the free memory, both are given the vectors in equal pieces, one by one
(the column ``piece``).

Indices of the lookup are compared. A difference is only called a tie where the choice is a matter of rounding: if in double precision both
codes are equally near up to float32 rounding (``vector``; ``residual``, at the first level that differs); if a bounded channel lies so near
the edge of two levels that the public bound, wider by 0.2 %, crosses it (``finite_scalar``). Signs have no ties.

The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import vector_quantize_pytorch as public
from timing import interleaved, machine
from torch import Tensor, nn

from jielong.quantizers.base import Quantizer
from jielong.quantizers.binary_spherical import BinarySpherical
from jielong.quantizers.finite_scalar import FiniteScalar
from jielong.quantizers.lookup_free import LookupFree
from jielong.quantizers.residual import Residual
from jielong.quantizers.vector import Vector, VectorQuantizer

# What the public implementations hold at their peak, in bytes a (vector, code) pair. Vector: three float distance tables kept by autograd,
# a long and a float one-hot table. Signs: distances, probabilities, their logarithms and products, and the gradients of some.
PEAK_BYTES = {"vector": 24, "residual": 24, "lookup_free": 32, "binary_spherical": 32, "finite_scalar": 0}

LEVELS = {256: (8, 6, 5), 1024: (8, 5, 5, 5), 4096: (7, 5, 5, 5, 5), 16_384: (8, 8, 8, 6, 5), 65_536: (8, 8, 8, 5, 5, 5)}


@dataclass(frozen=True)
class Pair:
    """Both quantizers with the same settings and codebooks.

    Attributes:
        ours: This project's.
        theirs: The public one.
        ties: Given vectors ``(M, D)`` and both their indices ``(M, K)``, how many of the differing ones are a matter of rounding.
        books: Both quantizers' averaged codebooks, to be compared after training.
    """

    ours: Quantizer
    theirs: nn.Module
    ties: Callable[[Tensor, Tensor, Tensor], int]
    books: Callable[[], list[tuple[Tensor, Tensor]]] = list


def same_codes(ours: VectorQuantizer, theirs: nn.Module, seed: int, scale: float = 1.0) -> None:
    """Give both the same random codebook."""
    start = torch.randn(ours.codebook_size, ours.dim, generator=torch.Generator().manual_seed(seed)) * scale
    for tensor in (ours.codebook, ours.sums, theirs._codebook.embed, theirs._codebook.embed_avg):
        tensor.copy_(start.view_as(tensor))


def vector(codes: int, dim: int, levels: int) -> Pair:
    ours = Vector(codebook_size=codes, decay=0.99, commitment=0.25, kmeans_iterations=0, restart_below=0.0).build(dim)
    theirs = public.VectorQuantize(dim=dim, codebook_size=codes, decay=0.99, commitment_weight=0.25, rotation_trick=False)
    same_codes(ours, theirs, seed=1)
    before = ours.codebook.clone()
    return Pair(
        ours,
        theirs,
        lambda z, a, b: ties(z, before, a[:, 0], b[:, 0]),
        lambda: [(ours.codebook, theirs.codebook)],
    )


def residual(codes: int, dim: int, levels: int) -> Pair:
    vector = Vector(codebook_size=codes, decay=0.99, commitment=0.25, kmeans_iterations=0, restart_below=0.0)
    ours = Residual(num_codebooks=levels, quantizer=vector).build(dim)
    stages = [cast("VectorQuantizer", stage) for stage in ours.stages]
    theirs = public.ResidualVQ(
        dim=dim, num_quantizers=levels, codebook_size=codes, decay=0.99, commitment_weight=0.25, rotation_trick=False
    )
    for level, (stage, layer) in enumerate(zip(stages, theirs.layers, strict=True)):
        same_codes(stage, layer, seed=1 + level, scale=0.7**level)
    before = [stage.codebook.clone() for stage in stages]

    def first_difference(vectors: Tensor, mine: Tensor, other: Tensor) -> int:
        found, rest, same = 0, vectors, torch.ones(len(vectors), dtype=torch.bool)
        for level, book in enumerate(before):
            a, b = mine[:, level], other[:, level]
            found += ties(rest[same], book, a[same], b[same])
            same = same & (a == b)
            rest = rest - book[a]
        return found

    return Pair(
        ours,
        theirs,
        first_difference,
        lambda: [(stage.codebook, layer.codebook) for stage, layer in zip(stages, theirs.layers, strict=True)],
    )


def finite_scalar(codes: int, dim: int, levels: int) -> Pair:
    if codes not in LEVELS:
        raise SystemExit(f"finite_scalar is measured at about {', '.join(map(str, LEVELS))} codes, not {codes}")
    sizes = LEVELS[codes]
    ours = FiniteScalar(levels=sizes).build(len(sizes))

    def near_an_edge(vectors: Tensor, mine: Tensor, other: Tensor) -> int:
        size = ours.sizes.float()
        offset, reach = 0.5 * (size % 2 == 0), (size - 1) * 0.999 / 2
        bounded = torch.tanh(vectors + torch.tan(offset / reach)) * reach - offset
        near = ((bounded - bounded.floor() - 0.5).abs() < 1.5e-3 * max(sizes)).any(dim=1)
        return int((near & (mine != other).any(dim=1)).sum())

    return Pair(ours, public.FSQ(list(sizes)), near_an_edge)


def signs(codes: int, spherical: bool) -> Pair:
    bits = codes.bit_length() - 1
    kind = BinarySpherical if spherical else LookupFree
    ours = kind(bits=bits, bit_order="big", commitment=0.25, temperature=0.01, joint_bits=bits).build(bits)
    theirs = public.LFQ(dim=bits, codebook_size=1 << bits, commitment_loss_weight=0.25, spherical=spherical)
    return Pair(ours, theirs, lambda vectors, mine, other: 0)


def lookup_free(codes: int, dim: int, levels: int) -> Pair:
    return signs(codes, spherical=False)


def binary_spherical(codes: int, dim: int, levels: int) -> Pair:
    return signs(codes, spherical=True)


KINDS: dict[str, Callable[[int, int, int], Pair]] = {
    each.__name__: each for each in (vector, finite_scalar, lookup_free, binary_spherical, residual)
}


def from_first_state(modules: dict[str, nn.Module], runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, every one from its module's first state."""
    states = {name: {key: value.clone() for key, value in module.state_dict().items()} for name, module in modules.items()}
    return interleaved(runs, repeats, before=lambda name: modules[name].load_state_dict(states[name]))


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


def measure(kind: str, count: int, codes: int, dim: int, levels: int, repeats: int) -> dict[str, float | int]:
    """One case."""
    pair = KINDS[kind](codes, dim, levels)
    ours, theirs = pair.ours, pair.theirs
    vectors = torch.randn(count, ours.dim, generator=torch.Generator().manual_seed(0))
    piece = count
    while piece > 1 and piece * codes * PEAK_BYTES[kind] > free_memory() // 2:
        piece = -(-piece // 2)
    pieces = vectors.split(piece)

    ours.eval()
    theirs.eval()
    mine: list[Tensor] = []
    others: list[Tensor] = []

    @torch.no_grad()
    def forward_ours() -> None:
        mine[:] = [ours(part[None]).indices for part in pieces]

    @torch.no_grad()
    def forward_theirs() -> None:
        others[:] = [theirs(part[None])[1] for part in pieces]

    both: dict[str, nn.Module] = {"ours": ours, "public": theirs}
    forward = from_first_state(both, {"ours": forward_ours, "public": forward_theirs}, repeats)
    a, b = (torch.cat([part.reshape(-1, ours.num_codebooks) for part in found]).long() for found in (mine, others))
    different = int((a != b).any(dim=1).sum())

    def train_ours() -> None:
        for part in pieces:
            quantized = ours(part[None].clone().requires_grad_())
            (quantized.values.sum() + sum(quantized.losses.values())).backward()

    def train_theirs() -> None:
        for part in pieces:
            values, _, *losses = theirs(part[None].clone().requires_grad_())
            (values.sum() + sum(loss.sum() for loss in losses)).backward()

    ours.train()
    theirs.train()
    training = from_first_state(both, {"ours": train_ours, "public": train_theirs}, repeats)
    return {
        "codes": ours.codebook_size,
        "dim": ours.dim,
        "levels": ours.num_codebooks,
        "piece": piece,
        "forward_s": forward["ours"],
        "public_forward_s": forward["public"],
        "forward_speedup": forward["public"] / forward["ours"],
        "training_s": training["ours"],
        "public_training_s": training["public"],
        "training_speedup": training["public"] / training["ours"],
        "equal_indices": 1 - different / count,
        "different": different,
        "ties": pair.ties(vectors, a, b) if different else 0,
        "codebook_difference": max([float((left - right).abs().max()) for left, right in pair.books()], default=0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quantizer", nargs="?", choices=list(KINDS), default="vector")
    parser.add_argument("--vectors", type=int, default=65_536)
    parser.add_argument("--codes", type=int, nargs="+", help="powers of two; 1024, and 16384 for vector, when not given")
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 256], help="of vector and residual; the others have their own")
    parser.add_argument("--levels", type=int, default=8, help="of residual")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--quick", action="store_true", help="few vectors and codes: whether it runs")
    options = parser.parse_args()
    if options.quick:
        options.vectors, options.codes, options.dims, options.levels, options.repeats = 64, [256], [8], 2, 1
    kind, searches = options.quantizer, options.quantizer in ("vector", "residual")
    for codes in options.codes or []:
        if codes < 2 or not math.log2(codes).is_integer():
            parser.error(f"--codes must be powers of two, not {codes}")
    measured_on = machine(options.threads)

    print(
        f"{kind}: {options.vectors:,} vectors, float32, {options.threads} threads, torch {torch.__version__}; median of {options.repeats}"
    )
    print(
        f"{'codes':>7}{'dim':>5}{'levels':>7}{'piece':>8} | {'forward':>10}{'public':>10}{'':>9} | {'training':>10}{'public':>10}{'':>9} | "
        "equal indices"
    )
    cases = []
    for codes in options.codes or ([1024, 16_384] if kind == "vector" else [1024]):
        for dim in options.dims if searches else [0]:
            case = measure(kind, options.vectors, codes, dim, options.levels, options.repeats)
            cases.append(case)
            print(
                f"{case['codes']:>7,}{case['dim']:>5}{case['levels']:>7}{case['piece']:>8,} | "
                f"{case['forward_s']:>9.4f}s{case['public_forward_s']:>9.4f}s{case['forward_speedup']:>8.2f}x | "
                f"{case['training_s']:>9.4f}s{case['public_training_s']:>9.4f}s{case['training_speedup']:>8.2f}x | "
                f"{case['equal_indices']:.6%} ({case['different']} differ, {case['ties']} are ties)",
                flush=True,
            )
    summary = {
        "benchmark": "quantizer",
        "quantizer": kind,
        "vectors": options.vectors,
        "machine": measured_on,
        "least_speedup": min(min(case["forward_speedup"], case["training_speedup"]) for case in cases),
        "all_equal_but_ties": all(case["different"] == case["ties"] for case in cases),
        "cases": cases,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
