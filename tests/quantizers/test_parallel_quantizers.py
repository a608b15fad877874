"""Two processes with half the batch each are one process with the whole of it: counts, codebooks, drawn levels, entropies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

from jielong.quantizers.base import QuantizerSettings
from jielong.quantizers.binary_spherical import BinarySpherical
from jielong.quantizers.checks import NonFiniteVectors
from jielong.quantizers.finite_scalar import FiniteScalar
from jielong.quantizers.gumbel import Gumbel
from jielong.quantizers.lookup_free import LookupFree
from jielong.quantizers.projected import Projected
from jielong.quantizers.residual import Residual
from jielong.quantizers.vector import Vector
from running_processes import run_processes

VECTOR = Vector(codebook_size=12, decay=0.6, restart_below=0.6, restart_every=2, kmeans_iterations=3)
CASES: dict[str, QuantizerSettings] = {
    "finite_scalar": FiniteScalar(levels=(5, 3)),
    "lookup_free": LookupFree(bits=6, groups=2, entropy=1.0, joint_bits=4),
    "binary_spherical": BinarySpherical(bits=6, entropy=1.0, joint_bits=6),
    "gumbel": Gumbel(codebook_size=12),
    "residual": Residual(num_codebooks=3, dropout=0.7, quantizer=VECTOR),
    "shared residual": Residual(num_codebooks=3, dropout=0.7, shared=True, quantizer=VECTOR),
    "projected residual": Residual(num_codebooks=3, dropout=0.7, quantizer=Projected(width=3, quantizer=VECTOR)),
    "rounding residual": Residual(num_codebooks=3, dropout=0.7, shrink=0.5, quantizer=LookupFree(bits=4)),
}
SHARES = (40, 56)  # of 96 vectors: they need not be equal


def batch(step: int) -> Tensor:
    return torch.randn(96, 4, generator=torch.Generator().manual_seed(step))


def train(settings: QuantizerSettings, rank: int, processes: int) -> dict[str, Tensor]:
    """The state after five steps, and the last step's indices."""
    torch.manual_seed(0)  # the projections
    quantizer = settings.build(4)
    generator = torch.Generator().manual_seed(7 + rank)  # each process its own: the first one's must decide
    levels = []
    for step in range(5):
        share = batch(step).split(SHARES)[rank] if processes > 1 else batch(step)
        levels.append(quantizer(share, generator=generator).indices.shape[-1])
    return {name: value.clone() for name, value in quantizer.state_dict().items()} | {"levels used": torch.tensor(levels)}


def entropy_gradient(settings: QuantizerSettings, rank: int, processes: int) -> Tensor:
    """Of the projection's weights, averaged over the processes as training does; halves are equal here, as they are in training."""
    torch.manual_seed(0)
    quantizer = settings.build(4)
    share = batch(0).chunk(2)[rank] if processes > 1 else batch(0)
    quantizer(share).losses["entropy"].backward()
    assert isinstance(quantizer.inward, nn.Linear)
    gradient = quantizer.inward.weight.grad
    assert gradient is not None
    if processes > 1:
        dist.all_reduce(gradient)
    return gradient / processes


def refuses(settings: QuantizerSettings, rank: int) -> bool:
    """Whether this process refuses NaN that only the second one meets; it must, or the other would wait for ever."""
    share = torch.full((5, 4), torch.nan if rank == 1 else 1.0)
    try:
        settings.build(4)(share)
    except NonFiniteVectors:
        return True
    return False


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {
        "states": {name: train(settings, rank, 2) for name, settings in CASES.items()},
        "gradients": {name: entropy_gradient(CASES[name], rank, 2) for name in ("lookup_free", "binary_spherical")},
        "refused": {name: refuses(settings, rank) for name, settings in CASES.items()},
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    run_processes(worker, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", list(CASES))
def test_two_processes_equal_one(case: str, processes: list[dict]) -> None:
    alone = train(CASES[case], 0, 1)
    for name, value in alone.items():
        first, second = (process["states"][case][name] for process in processes)
        assert torch.equal(first, second), f"{name} differs between processes"
        torch.testing.assert_close(first, value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    counted = [value for name, value in alone.items() if name.endswith(".recent")]
    assert counted
    assert all(int(value.sum()) > 0 for value in counted)


def test_the_cases_do_drop_levels() -> None:
    used = train(CASES["residual"], 0, 1)["levels used"].tolist()
    assert len(set(used)) > 1


@pytest.mark.parametrize("case", ["lookup_free", "binary_spherical"])
def test_the_entropy_of_all_codes_is_the_whole_batchs(case: str, processes: list[dict]) -> None:
    alone = entropy_gradient(CASES[case], 0, 1)
    for process in processes:
        torch.testing.assert_close(process["gradients"][case], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", list(CASES))
def test_both_processes_refuse_what_one_cannot_use(case: str, processes: list[dict]) -> None:
    assert all(process["refused"][case] for process in processes)
