"""Two processes with half the batch each are one process with the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from jielong.quantizers.checks import NonFiniteVectors
from jielong.quantizers.vector import Vector, VectorQuantizer
from running_processes import run_processes

CASES = {
    "ema": Vector(codebook_size=24, decay=0.6, restart_below=0.6, restart_every=2),
    "normalised": Vector(codebook_size=24, decay=0.6, restart_below=0.6, restart_every=2, normalize=True),
    "gradient": Vector(codebook_size=24, decay=0.6, restart_below=0.6, restart_every=2, codebook="gradient"),
}
SPLIT = 40  # of 96 vectors: the shares need not be equal for averages, though they must be for averaged gradients


def batch(step: int) -> Tensor:
    return torch.randn(96, 4, generator=torch.Generator().manual_seed(step))


def train(settings: Vector, rank: int, processes: int) -> dict[str, Tensor]:
    """The state after six steps."""
    quantizer: VectorQuantizer = settings.build(4)
    if quantizer.learned:
        with torch.no_grad():
            quantizer.codebook.fill_(0)
    split = 48 if quantizer.learned else SPLIT
    model: torch.nn.Module = quantizer
    if processes > 1 and quantizer.learned:
        model = torch.nn.parallel.DistributedDataParallel(quantizer)
    generator = torch.Generator().manual_seed(7 + rank)  # each process its own: the first one's must decide
    for step in range(6):
        z = batch(step)
        z = z if processes == 1 else (z[:split] if rank == 0 else z[split:])
        quantized = model(z, generator=generator)
        if quantizer.learned:
            quantizer.codebook.grad = None
            quantized.losses["codebook"].backward()
            quantizer.codebook.data.sub_(0.5 * quantizer.codebook.grad)
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    states = {name: train(settings, rank, 2) for name, settings in CASES.items()}
    # One process meets NaN: both must refuse, or the other would wait for ever.
    quantizer = CASES["ema"].build(4)
    z = batch(0)
    z[0, 0] = torch.nan if rank == 1 else 1.0
    try:
        quantizer(z)
        refused = False
    except NonFiniteVectors:
        refused = True
    torch.save({"states": states, "refused": refused}, f"{folder}/{rank}.pt")
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


def test_the_cases_do_restart_codes() -> None:
    for settings in CASES.values():
        with_restarts = train(settings, 0, 1)
        without = train(settings.model_copy(update={"restart_below": 0.0}), 0, 1)
        assert not torch.equal(with_restarts["codebook"], without["codebook"])


def test_both_processes_refuse_what_one_cannot_use(processes: list[dict]) -> None:
    assert all(process["refused"] for process in processes)
