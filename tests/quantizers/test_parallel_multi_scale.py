"""Two processes with half the feature maps each are one process with all of them: codebook, usage and convolutions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from jielong.quantizers.multi_scale import MultiScale, MultiScaleQuantizer
from running_processes import run_processes

CASES = {
    codebook: MultiScale(codebook_size=24, decay=0.6, restart_below=0.6, restart_every=2, codebook=codebook, balance=balance)  # type: ignore[arg-type]
    for codebook, balance in (("ema", 1.0), ("gradient", 0.0))
}


def train(settings: MultiScale, rank: int, processes: int) -> dict[str, Tensor]:
    """The state after five steps of plain gradient descent."""
    torch.manual_seed(0)
    quantizer: MultiScaleQuantizer = settings.on((4, 4)).build(3)
    model: torch.nn.Module = quantizer
    if processes > 1:
        model = torch.nn.parallel.DistributedDataParallel(quantizer, broadcast_buffers=False)
    generator = torch.Generator().manual_seed(7 + rank)  # each process its own: the first one's must decide
    for step in range(5):
        features = torch.randn(8, 4, 4, 3, generator=torch.Generator().manual_seed(step)) + 1
        features = features if processes == 1 else features[4 * rank : 4 * rank + 4]
        quantized = model(features, generator=generator)
        quantizer.zero_grad()
        quantized.losses["codebook"].backward()
        for parameter in quantizer.parameters():
            assert parameter.grad is not None
            parameter.data.sub_(0.2 * parameter.grad)
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save({name: train(settings, rank, 2) for name, settings in CASES.items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    run_processes(worker, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", list(CASES))
def test_two_processes_equal_one(case: str, processes: list[dict[str, dict[str, Tensor]]]) -> None:
    alone = train(CASES[case], 0, 1)
    for name, value in alone.items():
        first, second = (process[case][name] for process in processes)
        assert torch.equal(first, second), f"{name} differs between processes"
        torch.testing.assert_close(first, value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
