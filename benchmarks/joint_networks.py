"""Training steps and sampling of a DiT against ``diffusers.DiTTransformer2DModel`` of the same size, in turns.

python benchmarks/joint_networks.py                        # bf16, DiT-B/2 at 256 pixels on a GPU, DiT-S at 64 tokens on a CPU
python benchmarks/joint_networks.py --precision fp32 --layers 6 --width 256 --heads 4 --side 8 --batch 64

A step is forward pass, backward pass and AdamW (fused) on the velocity of noisy latents, as autocast does it on both sides; sampling is
``--evaluations`` of the network with guidance, both branches in one call. Ratios are medians of pairs: each pair runs one side after the
other, so that other work on the machine slows both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers.models import DiTTransformer2DModel
from torch import Tensor, nn

from jielong.core.tokens import Layout
from jielong.networks.denoiser import JointDenoiser
from jielong.networks.dit import DiT

CHANNELS, PATCH, CLASSES = 4, 2, 1000


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768 if gpu else 384)
    parser.add_argument("--heads", type=int, default=12 if gpu else 6)
    parser.add_argument("--side", type=int, default=16 if gpu else 8, help="tokens along a side")
    parser.add_argument("--batch", type=int, default=64 if gpu else 8)
    parser.add_argument("--evaluations", type=int, default=20 if gpu else 5)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    return parser.parse_args()


class Ours(nn.Module):
    """The network with a table of classes, which takes the place of a condition."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        values = CHANNELS * PATCH**2
        settings = DiT(layers=options.layers, width=options.width, heads=options.heads, positions="sincos")
        network = settings.build(inputs=values, outputs=values, hidden=options.width, axes=2)
        assert isinstance(network, JointDenoiser)
        self.network, self.classes = network, nn.Embedding(CLASSES, options.width)
        self.coords = Layout((options.side, options.side)).coordinates()

    def prepared(self, labels: Tensor) -> object:
        """What all evaluations share."""
        return self.network.prepare(self.classes(labels)[:, None].expand(-1, len(self.coords), -1), self.coords)

    def forward(self, x: Tensor, times: Tensor, labels: Tensor, prepared: object = None) -> Tensor:
        """Latents ``(B, C, H, W)`` as patches ``(B, N, C p p)``, to the same."""
        tokens = nn.functional.unfold(x, PATCH, stride=PATCH).mT
        out = self.network.predict(tokens, times[:, None], prepared or self.prepared(labels))
        return nn.functional.fold(out.mT, x.shape[2:], PATCH, stride=PATCH)


class Theirs(nn.Module):
    """The model of diffusers."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.model = DiTTransformer2DModel(
            options.heads, options.width // options.heads, CHANNELS, num_layers=options.layers, sample_size=PATCH * options.side,
            patch_size=PATCH, num_embeds_ada_norm=CLASSES, norm_eps=1e-6,
        )  # fmt: skip

    def prepared(self, labels: Tensor) -> object:
        """Nothing is shared by evaluations."""
        return None

    def forward(self, x: Tensor, times: Tensor, labels: Tensor, prepared: object = None) -> Tensor:
        """``(B, C, H, W)`` to the same."""
        out: Tensor = self.model(x, timestep=1000 * times, class_labels=labels).sample
        return out


def measured(model: Ours | Theirs, options: argparse.Namespace, device: torch.device) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step and a draw."""
    enabled, size = options.precision == "bf16", PATCH * options.side
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    x, labels = torch.randn(options.batch, CHANNELS, size, size, device=device), torch.arange(options.batch, device=device)
    times = torch.rand(options.batch, device=device)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            loss = (model(x, times, labels).float() - x).square().mean()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def draw() -> None:
        model.eval()
        state = x
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            both = torch.cat([labels, torch.full_like(labels, CLASSES - 1)])
            prepared = model.prepared(both)
            for index in range(options.evaluations):
                when = times.new_full((2 * options.batch,), index / options.evaluations)
                conditional, null = model(torch.cat([state, state]), when, both, prepared).float().chunk(2)
                state = state + (null + 3 * (conditional - null)) / options.evaluations

    return step, draw


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """How long a call takes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    """Print times and ratios."""
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours, theirs = Ours(options).to(device), Theirs(options).to(device)
    counts = [sum(parameter.numel() for parameter in model.parameters()) / 1e6 for model in (ours, theirs)]
    print(f"{device}, {options.precision}, {options.batch} x {options.side**2} tokens, {counts[0]:.1f} M and {counts[1]:.1f} M parameters")
    for name, mine, other in zip(("step", "draw"), measured(ours, options, device), measured(theirs, options, device), strict=True):
        pairs = [(seconds(mine, device), seconds(other, device)) for _ in range(options.pairs + 1)][1:]  # the first one warms up
        of_mine, of_other = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{name}: {1000 * of_mine:.0f} ms, diffusers {1000 * of_other:.0f} ms, {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
