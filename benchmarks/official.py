"""Released models against their authors' way of sampling, on the same random weights: seconds a picture with decoding, tokens equal.

    python benchmarks/official.py                       # all systems at released sizes, one thread
    python benchmarks/official.py --only var --threads 1 2
    python benchmarks/official.py --bf16                # also ours with products in bfloat16
    python benchmarks/official.py --quick               # a smoke run with tiny sizes

Weights are random: they take as long as trained ones. Theirs is the reference of tests/interop/reference, written from the paper with the
caches of the released code and no other; its weights go through the import (`jielong import`), so both sides draw the same most likely
tokens. Rounds of all sides are interleaved, so that a busy neighbour slows all alike; medians are reported. The last line of the output is
one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from timing import interleaved, machine
from torch import Tensor

from jielong.interop.checkpoints import keep
from jielong.interop.files import Source
from jielong.interop.systems import var
from jielong.system import System, load

REFERENCES = Path(__file__).resolve().parents[1] / "tests" / "interop" / "reference"


@dataclass(frozen=True)
class Drawn:
    """Most likely tokens ``(B, N)``, and the pictures that they are decoded to."""

    tokens: Tensor
    pictures: Tensor


@dataclass(frozen=True)
class Pair:
    """Two programs that draw the same.

    Attributes:
        about: Sizes.
        ours: Draws by this package.
        theirs: Draws as the authors' code does.
    """

    about: str
    ours: Callable[[], Drawn]
    theirs: Callable[[], Drawn]


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


SYSTEMS: dict[str, Callable[[bool, Path], Pair]] = {"var": var_pair}
"""What there is to compare; a system is a function from whether sizes are tiny, and a folder for a checkpoint, to its two sides."""


def compare(name: str, threads: int, arguments: argparse.Namespace) -> dict[str, object]:
    """The row of a system."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        pair = SYSTEMS[name](arguments.quick, Path(folder) / name)
        ours, theirs = pair.ours(), pair.theirs()
        equal, apart = torch.equal(ours.tokens, theirs.tokens), float((ours.pictures - theirs.pictures).abs().max())
        sides: dict[str, Callable[[], object]] = {"ours": pair.ours, "theirs": pair.theirs}
        if arguments.bf16:
            sides["bf16"] = _in_bf16(pair.ours)
        seconds = interleaved(sides, arguments.rounds)
    ratio = seconds["theirs"] / seconds["ours"]
    print(f"\n{name}: {pair.about}; {threads} {'thread' if threads == 1 else 'threads'}")
    print(f"  theirs {seconds['theirs']:8.3f} s a picture")
    print(f"  ours   {seconds['ours']:8.3f} s   {ratio:.2f}x; tokens {'equal' if equal else 'DIFFER'}, pictures within {apart:.1e}")
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
