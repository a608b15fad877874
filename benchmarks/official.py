"""Released models against their authors' way of sampling, on the same random weights: seconds a picture with decoding, tokens equal.

    python benchmarks/official.py                       # all systems at released sizes, one thread
    python benchmarks/official.py --only var --threads 1 2
    python benchmarks/official.py --bf16                # also ours with products in bfloat16
    python benchmarks/official.py --compile             # also ours with its blocks compiled by torch.compile; needs a C++ compiler
    python benchmarks/official.py --quick               # a smoke run with tiny sizes

Weights are random: they take as long as trained ones. Theirs is the reference of tests/interop/reference, written from the paper with the
caches of the released code and no other; its weights go through the import (`jielong import`), so both sides draw the same most likely
tokens, or continuous ones for the same noise. Of MAR there is a third row: fast settings, which draw other pictures.
LlamaGen's is `generate` of a Llama of `transformers` of the same shape, whose tokens are others, as its positions are: ours are compared
with one pass of ours over all of them without a cache, and neither side decodes.
Each side runs once, and the results are compared; then timed rounds of all sides are interleaved, so that a busy neighbour slows all alike,
and medians are reported. With --rounds 0 the first run is the timed one: for MAR, which takes minutes. The last line of the output is one
JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import mar as masked_sampling
import torch
from timing import interleaved, machine
from torch import Tensor, nn

from jielong.config.guidance import Guidance
from jielong.core.rng import PerSampleRNG
from jielong.generation.generator import Generator
from jielong.interop.checkpoints import keep
from jielong.interop.files import Source
from jielong.interop.systems import llamagen, mar, var
from jielong.networks.conditioning import Conditioning
from jielong.networks.repeated import blocks_of
from jielong.system import System, load
from jielong.training.blocks import allow_recompiling

REFERENCES = Path(__file__).resolve().parents[1] / "tests" / "interop" / "reference"


@dataclass(frozen=True)
class Drawn:
    """Most likely tokens ``(B, N)``, or continuous ones ``(B, N, C)`` for the same noise, and the pictures they are decoded to, if any."""

    tokens: Tensor
    pictures: Tensor | None = None

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
        model: Whose blocks :attr:`ours` runs.
        fast: Draws by this package with settings that are faster and draw other pictures; ``None`` where there are none.
        expected: What ours must be, from ours, where theirs is of the same shape alone.
    """

    about: str
    ours: Callable[[], Drawn]
    theirs: Callable[[], Drawn]
    model: nn.Module
    fast: Callable[[], Drawn] | None = None
    expected: Callable[[Drawn], Drawn] | None = None


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


def model_of(system: System) -> Generator:
    """Its generator."""
    assert system.generator is not None
    return system.generator


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

    return Pair(f"{system.tokenizer.media}, {depth} layers, {system.tokenizer.layout.positions} tokens", ours, official, model_of(system))


def mar_pair(quick: bool, folder: Path) -> Pair:
    """MAR-B at 256 x 256 pixels, one picture of one class in 64 iterations, NFE 100 a token and guidance 2.9.

    The fast settings are the row ``mixed`` of benchmarks/mar.py, which compares their quality on a trained model. Tokens of random weights
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
        iterations=iterations, num_inference_steps=evaluations, guidance=scale, all_positions=False, ways=["mixed"]
    )
    fast = next(row for name, row in masked_sampling.ways(settings, True, 1.0).items() if name.startswith("mixed"))

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
    return Pair(about, lambda: drawn(**naive), official, model_of(system), lambda: drawn(**fast))


def llamagen_pair(quick: bool, folder: Path) -> Pair:
    """LlamaGen-B at 256 x 256 pixels, the 256 tokens of one class with a scale of 2."""
    from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

    theirs, scale, number = reference("llamagen"), 2.0, 1
    sizes = theirs.Sizes(**({"layers": 2, "heads": 2, "width": 128, "grid": 4, "vocabulary": 64, "classes": 5} if quick else _LLAMAGEN_B))
    units = theirs.tokenizer_shapes((32, 64, 64), inner=8, codes=64) if quick else theirs.tokenizer_shapes((128, 128, 256, 256, 512))
    weights = {f"c2i_{16 if quick else 256}.pt": theirs.drawn(sizes.shapes()), "vq.pt": theirs.drawn(units)}
    system = imported(llamagen._generator, weights, folder)
    model, count = model_of(system), sizes.grid**2
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        max_position_embeddings=count + 1,
        rms_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    llama, begin = LlamaForCausalLM(config).eval(), torch.randn(2, 1, sizes.width)

    class Guided(LogitsProcessor):  # type: ignore[misc]
        """The rows of a class and of none are one batch, as in the released code, and go on with the same token."""

        def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
            return (scores[1:] + scale * (scores[:1] - scores[1:])).expand(2, -1)

    def ours() -> Drawn:
        return Drawn(model.generate([number], temperature=0, guidance=scale).values[..., 0])

    @torch.inference_mode()
    def official() -> Drawn:
        how = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "use_cache": True}
        mask = torch.ones(2, 1, dtype=torch.long)
        found = llama.generate(inputs_embeds=begin, attention_mask=mask, logits_processor=LogitsProcessorList([Guided()]), **how)
        return Drawn(found[:1, -count:])

    @torch.inference_mode()
    def whole(drawn: Drawn) -> Drawn:
        """The most likely token of every position after those drawn before it, in one pass: those drawn, unless one differs."""
        assert model.condition is not None
        values, known = drawn.tokens[..., None], torch.ones(1, count, dtype=torch.bool)
        embeddings = model.embeddings(values, known, slice(0, count), model.position_vectors(model.plan)).repeat(2, 1, 1)
        both = Conditioning.cat(model.condition(model.condition.prepare([number])), model.condition.unconditional(1))
        mine, none = model.backbone(replace(model.plan.inputs(embeddings), conditioning=both)).chunk(2)
        return Drawn(model.head.scores(none + scale * (mine - none))[:, :, 0].argmax(-1))  # type: ignore[operator]

    return Pair(f"{sizes.layers} layers, {count} tokens with guidance, not decoded", ours, official, model, expected=whole)


_LLAMAGEN_B = {"layers": 12, "heads": 12, "width": 768, "grid": 16}
SYSTEMS: dict[str, Callable[[bool, Path], Pair]] = {"var": var_pair, "mar": mar_pair, "llamagen": llamagen_pair}
"""What there is to compare; a system is a function from whether sizes are tiny, and a folder for a checkpoint, to its two sides."""


def compare(name: str, threads: int, arguments: argparse.Namespace) -> dict[str, object]:
    """The row of a system."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        pair = SYSTEMS[name](arguments.quick, Path(folder) / name)
        sides: dict[str, Callable[[], Drawn]] = {"ours": pair.ours, "theirs": pair.theirs}
        if pair.fast is not None:
            sides["fast"] = pair.fast
        if arguments.bf16:
            sides["bf16"] = _in_bf16(pair.ours)
        if arguments.compile:
            sides["compiled"] = _compiled(pair)
        seconds, drawn = {}, {}
        for side, draw in sides.items():
            start = time.perf_counter()
            drawn[side] = draw()
            seconds[side] = time.perf_counter() - start
            print(f"{name}, {threads=}: {side} ran once in {seconds[side]:.1f} s", file=sys.stderr, flush=True)  # minutes each for MAR
        ours = drawn["ours"]
        theirs = drawn["theirs"] if pair.expected is None else pair.expected(ours)
        equal, apart = ours.equals(theirs), _apart(ours.pictures, theirs.pictures)
        if arguments.rounds:
            seconds = interleaved(sides, arguments.rounds, warm_up=False)
    ratio = seconds["theirs"] / seconds["ours"]
    print(f"\n{name}: {pair.about}; {threads} {'thread' if threads == 1 else 'threads'}")
    print(f"  theirs {seconds['theirs']:8.3f} s a picture")
    pictures = "" if apart is None else f", pictures within {apart:.1e}"
    print(f"  ours   {seconds['ours']:8.3f} s   {ratio:.2f}x; tokens {'equal' if equal else 'DIFFER'}{pictures}")
    if pair.fast is not None:
        print(
            f"  fast   {seconds['fast']:8.3f} s   {seconds['theirs'] / seconds['fast']:.2f}x with fast settings, which draw other pictures"
        )
    if arguments.bf16:
        print(f"  ours   {seconds['bf16']:8.3f} s   {seconds['theirs'] / seconds['bf16']:.2f}x in bfloat16")
    if arguments.compile:
        same = "equal" if ours.equals(drawn["compiled"]) else "DIFFER"
        print(f"  ours   {seconds['compiled']:8.3f} s   {seconds['theirs'] / seconds['compiled']:.2f}x compiled; tokens {same}")
    row: dict[str, object] = {"system": name, "threads": threads, "equal": equal, "apart": apart, "speedup": ratio}
    return row | {f"{side}_s": value for side, value in seconds.items()}


def _apart(one: Tensor | None, other: Tensor | None) -> float | None:
    """The greatest difference of pictures; ``None`` where nothing was decoded."""
    return None if one is None or other is None else float((one - other).abs().max())


def _in_bf16(draw: Callable[[], Drawn]) -> Callable[[], Drawn]:
    def drawn() -> Drawn:
        with torch.autocast("cpu", torch.bfloat16):
            return draw()

    return drawn


def _compiled(pair: Pair) -> Callable[[], Drawn]:
    """Ours with the forward pass of each block compiled, for any number of tokens; the first draw compiles."""
    blocks = [block for _, block in blocks_of(pair.model)]
    allow_recompiling(len(blocks))
    passes = [torch.compile(block.forward, dynamic=True) for block in blocks]

    def drawn() -> Drawn:
        for block, compiled in zip(blocks, passes, strict=True):
            block.forward = compiled  # type: ignore[method-assign]
        try:
            return pair.ours()
        finally:
            for block in blocks:
                del block.forward

    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each side after the first; 0 times the first")
    parser.add_argument("--bf16", action="store_true", help="also ours with products in bfloat16")
    parser.add_argument("--compile", action="store_true", help="also ours with its blocks compiled")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round")
    arguments = parser.parse_args()
    if arguments.rounds < 0:
        parser.error(f"--rounds: 0 or more, not {arguments.rounds}")
    arguments.rounds = 1 if arguments.quick else arguments.rounds
    rows = [compare(name, threads, arguments) for threads in arguments.threads for name in arguments.only]
    print(json.dumps({"machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
