"""Flow matching in two dimensions: learn a velocity that carries noise to a mixture of Gaussians, and draw four of Euler's steps.

python examples/flow_matching.py              # seconds; writes flow_matching.png
"""

import argparse
import math

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

CENTERS, DEVIATION = 2.5 * torch.view_as_real(torch.exp(2j * math.pi * torch.arange(5) / 5)), 0.2


def data(count: int) -> Tensor:
    """Points of the mixture, ``(count, 2)``."""
    return CENTERS[torch.randint(len(CENTERS), (count,))] + DEVIATION * torch.randn(count, 2)


def train(steps: int, batch: int = 512) -> nn.Module:
    """A network of ``(x, t)`` that predicts ``x_1 - x_0`` at ``x_t = (1 - t) x_0 + t x_1``: noise ``x_0``, data ``x_1``, ``t`` uniform."""
    network = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        noise, target, time = torch.randn(batch, 2), data(batch), torch.rand(batch, 1)
        loss = (network(torch.cat([torch.lerp(noise, target, time), time], dim=-1)) - (target - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


@torch.no_grad()
def walk(network: nn.Module, x: Tensor, steps: int = 4) -> list[Tensor]:
    """The points before, between and after ``steps`` moves ``x <- x + v(x, t) / steps``."""
    path = [x]
    for step in range(steps):
        time = torch.full((len(x), 1), step / steps)
        path.append(path[-1] + network(torch.cat([path[-1], time], dim=-1)) / steps)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    parser.add_argument("--out", default="flow_matching.png")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    network = train(chosen.steps)
    path, figure = walk(network, torch.randn(32, 2)), plt.figure(figsize=(7, 7))
    plt.scatter(*data(1000).T, s=4, color="0.85", label="data")
    for step in range(4):  # an arrow each, darker towards the data
        start, move, color = path[step], path[step + 1] - path[step], plt.get_cmap("viridis")(0.9 - 0.25 * step)
        plt.quiver(*start.T, *move.T, angles="xy", scale_units="xy", scale=1, width=0.003, color=color, label=f"t = {step / 4:g}")
    plt.scatter(*path[0].T, s=12, color="tab:orange", zorder=3, label="noise")
    plt.legend(loc="upper right")
    plt.axis("equal")
    figure.savefig(chosen.out, dpi=110, bbox_inches="tight")
