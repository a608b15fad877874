"""Released models against their authors' way of sampling, on the same random weights: seconds a picture with decoding, tokens equal.

    python benchmarks/official.py                       # all systems at released sizes, one thread
    python benchmarks/official.py --only var --threads 1 2
    python benchmarks/official.py --bf16                # also ours with products in bfloat16
    python benchmarks/official.py --quick               # a smoke run with tiny sizes

Weights are random: they take as long as trained ones. Theirs is the reference of tests/interop/reference, written from the paper with the
caches of the released code and no other; its weights go through the import (`jielong import`), so both sides draw the same most likely
tokens, or continuous ones for the same noise. Of MAR there is a third row: fast settings, which draw other pictures.
Rounds of all sides are interleaved, so that a busy neighbour slows all alike; medians are reported. The last line of the output is
one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import mar as masked_sampling
import torch
from timing import interleaved, machine
from torch import Tensor

from jielong.config.guidance import Guidance
from jielong.core.rng import PerSampleRNG
from jielong.interop.checkpoints import keep
from jielong.interop.files import Source
from jielong.interop.systems import mar, var
from jielong.system import System, load

REFERENCES = Path(__file__).resolve().parents[1] / "tests" / "interop" / "reference"


@dataclass(frozen=True)
class Drawn:
    """Most likely tokens ``(B, N)``, or continuous ones ``(B, N, C)`` for the same noise, and the pictures that they are decoded to."""

    tokens: Tensor
    pictures: Tensor

    def equals(self, other: Drawn) -> bool:
        """Whether tokens are equal, continuous ones but for rounding: within a thousandth of the largest."""
        if not self.tokens.is_floating_point():
            return torch.equal(self.tokens, other.tokens)
        return float((self.tokens - other.tokens).abs().max()) <= 1e-3 * float(other.tokens.abs().max())


@dataclass(frozen=True)
class Pair:
    """Two programs that draw the same.

    Attributes:
        about: Sizes.
        ours: Draws by this package.
        theirs: Draws as the authors' code does.
        fast: Draws by this package with settings that are faster and draw other pictures; ``None`` where there are none.
    """

    about: str
    ours: Callable[[], Drawn]
    theirs: Callable[[], Drawn]
    fast: Callable[[], Drawn] | None = None


def reference(name: str) -> ModuleType:
    """A module of :data:`REFERENCES`."""
    spec = importlib.util.spec_from_file_location(f"reference_{name}", REFERENCES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def imported(read: Callable[..., object], weights: dict[str, dict[str, Tensor]], folder: Path) -> System:
    """What the import makes of weights, by the names of files."""
    keep(read(*(Source(Path(name), each) for name, each in weights.items())), folder, folder)  # type: ignore[arg-type]
    return load(str(folder), "cpu")


def var_pair(quick: bool, folder: Path) -> Pair:
    """VAR-d16 at 256 x 256 pixels, one picture of one class with ``cfg`` 1.5."""
    theirs = reference("var")
    sizes = theirs.TokenizerSizes(**({"channels": 32, "multipliers": (1, 2), "blocks": 1, "latent": 8, "codes": 64} if quick else {}))
    depth, narrow = (2, {"classes": 5, "width": 32, "heads": 2}) if quick else (16, {})
    torch.manual_seed(0)
    tokenizer, transformer = theirs.Tokenizer(sizes).eval(), theirs.Transformer(sizes, depth, **narrow).eval()
    system = imported(var._generator, {"var.pth": transformer.state_dict(), "vae.pth": tokenizer.state_dict()}, folder)

    def ours() -> Drawn:
        drawn = system.generate_tokens([1], temperature=0, top_k=0, top_p=1.0)
        return Drawn(drawn.values[..., 0], system.tokenizer.decode(drawn))

    @torch.inference_mode()
    def official() -> Drawn:
        codes, features = transformer.sample(tokenizer, torch.tensor([1]), var.CFG)
        return Drawn(torch.cat(codes, 1), tokenizer.pictures(features))

    return Pair(f"{system.tokenizer.media}, {depth} layers, {system.tokenizer.layout.positions} tokens", ours, official)


def mar_pair(quick: bool, folder: Path) -> Pair:
    """MAR-B at 256 x 256 pixels, one picture of one class in 64 iterations, NFE 100 a token and guidance 2.9.

    The fast settings are the row ``best`` of benchmarks/mar.py, which compares their quality on a trained model. Tokens of random weights
    end far from those of trained ones; they are decoded at deviation 1.
    """
    theirs, scale, seed = reference("mar"), 2.9, 0
    sizes = theirs.Sizes(
        **({"width": 64, "depth": 1, "heads": 1, "tokens": 16, "buffer": 4, "head_width": 32, "head_depth": 1} if quick else {})
    )
    iterations, evaluations = (4, 6) if quick else (64, 100)
    torch.manual_seed(0)
    model = theirs.MAR(sizes).eval()
    autoencoder = theirs.AutoencoderKL((32, 64) if quick else (128, 128, 256, 256, 512), sizes.channels).eval()
    weights = {"checkpoint-last.pth": model.state_dict(), "kl16.ckpt": autoencoder.state_dict()}
    system = imported(mar._model, weights, folder)
    naive = {"steps": iterations, "num_inference_steps": evaluations, "guidance": Guidance(scale=scale, kind="linear", counted="after")}
    settings = argparse.Namespace(
        iterations=iterations, num_inference_steps=evaluations, guidance=scale, all_positions=False, ways=["best"]
    )
    best = next(row for name, row in masked_sampling.ways(settings, True, 1.0).items() if name.startswith("best"))

    def drawn(**options: Any) -> Drawn:
        tokens = system.generate_tokens([1], seed=seed, **options)
        return Drawn(tokens.values, system.tokenizer.decode(replace(tokens, values=tokens.values / tokens.values.std())))

    @torch.inference_mode()
    def official() -> Drawn:
        rng = PerSampleRNG(seed, [0])
        orders = rng.uniform(sizes.tokens).argsort(dim=1, stable=True).flip(1)

        def draws(step: int, chosen: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
            def noise() -> Tensor:
                return rng.normal(chosen.shape[1], sizes.channels).flip(1).flatten(0, 1)

            return noise(), noise

        tokens = theirs.sample(model, [1], orders, draws, iterations, evaluations, scale, temperature=1.0)
        latents = (tokens / tokens.std() / mar.SCALE).mT.unflatten(2, system.tokenizer.layout.grid)
        return Drawn(tokens, autoencoder.decode(latents).clamp(-1, 1))

    about = f"{system.tokenizer.media}, {sizes.depth} + {sizes.depth} layers, {iterations} iterations, NFE {evaluations}"
    return Pair(about, lambda: drawn(**naive), official, lambda: drawn(**best))


SYSTEMS: dict[str, Callable[[bool, Path], Pair]] = {"var": var_pair, "mar": mar_pair}
"""What there is to compare; a system is a function from whether sizes are tiny, and a folder for a checkpoint, to its two sides."""


def compare(name: str, threads: int, arguments: argparse.Namespace) -> dict[str, object]:
    """The row of a system."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        pair = SYSTEMS[name](arguments.quick, Path(folder) / name)
        ours, theirs = pair.ours(), pair.theirs()
        equal, apart = ours.equals(theirs), float((ours.pictures - theirs.pictures).abs().max())
        sides: dict[str, Callable[[], object]] = {"ours": pair.ours, "theirs": pair.theirs}
        if pair.fast is not None:
            sides["fast"] = pair.fast
        if arguments.bf16:
            sides["bf16"] = _in_bf16(pair.ours)
        seconds = interleaved(sides, arguments.rounds)
    ratio = seconds["theirs"] / seconds["ours"]
    print(f"\n{name}: {pair.about}; {threads} {'thread' if threads == 1 else 'threads'}")
    print(f"  theirs {seconds['theirs']:8.3f} s a picture")
    print(f"  ours   {seconds['ours']:8.3f} s   {ratio:.2f}x; tokens {'equal' if equal else 'DIFFER'}, pictures within {apart:.1e}")
    if pair.fast is not None:
        print(
            f"  fast   {seconds['fast']:8.3f} s   {seconds['theirs'] / seconds['fast']:.2f}x with fast settings, which draw other pictures"
        )
    if arguments.bf16:
        print(f"  ours   {seconds['bf16']:8.3f} s   {seconds['theirs'] / seconds['bf16']:.2f}x in bfloat16")
    row: dict[str, object] = {"system": name, "threads": threads, "equal": equal, "apart": apart, "speedup": ratio}
    return row | {f"{side}_s": value for side, value in seconds.items()}


def _in_bf16(draw: Callable[[], Drawn]) -> Callable[[], Drawn]:
    def drawn() -> Drawn:
        with torch.autocast("cpu", torch.bfloat16):
            return draw()

    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="also ours with products in bfloat16")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round")
    arguments = parser.parse_args()
    arguments.rounds = 1 if arguments.quick else arguments.rounds
    rows = [compare(name, threads, arguments) for threads in arguments.threads for name in arguments.only]
    print(json.dumps({"machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
