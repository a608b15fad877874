"""Codecs against transformers' of the same configuration and weights: how many seconds of sound a second of computing codes and decodes.

    python benchmarks/codec_speed.py                       # the recipe encodec (small), EnCodec's and Mimi's released sizes
    python benchmarks/codec_speed.py --minutes 10          # also how much memory ten minutes of sound take
    python benchmarks/codec_speed.py --products            # also which share of the time products and convolutions alone take
    python benchmarks/codec_speed.py --layers              # the table behind the choice of kernels
    python benchmarks/codec_speed.py --quick               # a smoke run

Weights are random: they take as long as trained ones. Both sides get the same sound, and their codes are compared. Rounds of all sides are
interleaved, so that a busy neighbour slows all alike. Times are of the processor, as a neighbour that takes turns on it adds nothing to
them, divided by the number of threads; medians are reported. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timing import interleaved, machine
from torch import Tensor

from jielong.interop.codecs import encodec, mimi
from jielong.networks.time_kernels import convolution, transposed
from jielong.tokenizers.vq import VQTokenizer

SMALL = {
    # the recipe `encodec`
    "sampling_rate": 16_000,
    "num_filters": 16,
    "hidden_size": 64,
    "num_lstm_layers": 1,
    "use_conv_shortcut": False,
    "target_bandwidths": [6.0],
    "pad_mode": "constant",
}
PRODUCTS = (
    "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mkldnn_convolution", "aten::thnn_conv2d", "aten::_slow_conv2d_forward",
    "aten::convolution_overrideable", "aten::mkldnn_rnn_layer", "aten::_scaled_dot_product_flash_attention_for_cpu",
)  # fmt: skip
"""Operations that multiply matrices or convolve: what no other arrangement of a codec does without."""
TINY = {"num_filters": 4, "hidden_size": 16, "codebook_size": 64}
TINY_MIMI = {
    "num_filters": 4,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "upsample_groups": 32,
    "codebook_size": 64,
}


class Sides:
    """One configuration of ours and of theirs."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        import transformers

        torch.manual_seed(0)
        self.name = name
        if name.startswith("mimi"):
            theirs = transformers.MimiModel(transformers.MimiConfig(**config)).eval()
            branches = (theirs.quantizer.semantic_residual_vector_quantizer, theirs.quantizer.acoustic_residual_vector_quantizer)
            books = [layer.codebook.embed_sum for branch in branches for layer in branch.layers]
        else:
            theirs = transformers.EncodecModel(transformers.EncodecConfig(**config)).eval()
            books = [layer.codebook.embed for layer in theirs.quantizer.layers]
            self.bandwidth = theirs.config.target_bandwidths[-1]
        for book in books:  # alike at all levels, so that no codes are nearly as near as others
            book.normal_()
        self.theirs = theirs
        read = mimi if name.startswith("mimi") else encodec
        self.ours: VQTokenizer = read(theirs.config.to_dict(), theirs.state_dict()).tokenizer

    def code(self, media: Tensor) -> Tensor:
        """Their codes."""
        options = {} if self.name.startswith("mimi") else {"bandwidth": self.bandwidth}
        codes: Tensor = self.theirs.encode(media, **options).audio_codes
        return codes

    def sound(self, codes: Tensor) -> Tensor:
        """Their sound."""
        media: Tensor = (self.theirs.decode(codes) if self.name.startswith("mimi") else self.theirs.decode(codes, [None])).audio_values
        return media


def processor(sides: dict[str, Callable[[], object]], rounds: int, threads: int) -> dict[str, float]:
    """Median seconds of the processor, a thread."""
    return {name: each / threads for name, each in interleaved(sides, rounds, time.process_time).items()}


@torch.inference_mode()
def compare(sides: Sides, seconds: float, rounds: int, threads: int) -> dict[str, Any]:
    """Encoding and decoding on both sides."""
    torch.set_num_threads(threads)
    ours, rate = sides.ours, sides.ours.media.rate
    assert rate is not None
    media = torch.rand(1, 1, max(1, int(seconds * rate) // ours.reduction[0]) * ours.reduction[0]) - 0.5
    seconds = media.shape[-1] / rate
    tokens, codes = ours.encode(media), sides.code(media)
    apart = float((ours.decode(tokens) - sides.sound(codes).clamp(-1, 1)).abs().max())
    same = float((tokens.values.mT.reshape(-1) == codes.reshape(-1)).double().mean())
    took = processor(
        {
            "encode": lambda: ours.encode(media),
            "their encode": lambda: sides.code(media),
            "decode": lambda: ours.decode(tokens),
            "their decode": lambda: sides.sound(codes),
        },
        rounds,
        threads,
    )
    both, their = took["encode"] + took["decode"], took["their encode"] + took["their decode"]
    return {
        "codec": sides.name,
        "threads": threads,
        "seconds": seconds,
        "codes_equal": same,
        "sound_apart": apart,
        **{f"{name.replace(' ', '_')}_times_real_time": seconds / value for name, value in took.items()},
        "times_real_time": seconds / both,
        "their_times_real_time": seconds / their,
        "faster": their / both,
    }


def share_of_products(call: Callable[[], object]) -> float:
    """Share of :data:`PRODUCTS` in the processor's time of a call; the rest is copies, activations, norms, lookups and Python."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as run:
        call()
    times = {event.key: event.self_cpu_time_total for event in run.key_averages()}
    return sum(times.get(name, 0.0) for name in PRODUCTS) / sum(times.values())


@torch.inference_mode()
def products(sides: Sides, seconds: float, threads: int) -> dict[str, Any]:
    """The share of products and convolutions in encoding and decoding, on both sides: how far from the least time each is."""
    torch.set_num_threads(threads)
    ours, rate = sides.ours, sides.ours.media.rate
    assert rate is not None
    media = torch.rand(1, 1, max(1, int(seconds * rate) // ours.reduction[0]) * ours.reduction[0]) - 0.5
    tokens, codes = ours.encode(media), sides.code(media)
    calls: dict[str, Callable[[], object]] = {
        "encode": lambda: ours.encode(media),
        "their encode": lambda: sides.code(media),
        "decode": lambda: ours.decode(tokens),
        "their decode": lambda: sides.sound(codes),
    }
    return {f"{name.replace(' ', '_')}_products_share": share_of_products(call) for name, call in calls.items()}


@torch.inference_mode()
def memory(sides: Sides, minutes: float) -> dict[str, Any]:
    """How far the process's memory rises above the sound itself while a long sound goes there and back, beside a short one."""
    torch.set_num_threads(1)
    ours, rate = sides.ours, sides.ours.media.rate
    assert rate is not None
    short = torch.rand(1, 1, 10 * rate) - 0.5
    ours.decode(ours.encode(short))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    media = torch.rand(1, 1, int(minutes * 60 * rate)) - 0.5
    start = time.process_time()
    made = ours.decode(ours.encode(media))
    took = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    held = (media.nbytes + made.nbytes) / 2**20
    return {
        "codec": sides.name,
        "minutes": minutes,
        "sound_mb": held,
        "peak_before_mb": before,
        "peak_mb": peak,
        "above_the_sound_mb": peak - before - held,
        "times_real_time": minutes * 60 / took,
    }


@torch.inference_mode()
def layers(quick: bool) -> list[dict[str, Any]]:
    """Kernels of each layer of EnCodec, for a second of sound: ours, and PyTorch's on channels that lie apart."""
    torch.set_num_threads(1)
    shapes = [(1, 32, 7, 1, 24_000)]
    channels, length = 32, 24_000
    for ratio in (2, 4, 5, 8):
        shapes += [(channels, channels // 2, 3, 1, length), (channels // 2, channels, 1, 1, length)]
        shapes.append((channels, 2 * channels, 2 * ratio, ratio, length))
        channels, length = 2 * channels, length // ratio
    table = []
    for inputs, outputs, kernel, stride, samples in [*shapes, (channels, 128, 7, 1, length), (32, 1, 7, 1, 24_000)]:
        samples = samples // 8 if quick else samples
        weight, bias, x = torch.randn(outputs, inputs, kernel), torch.randn(outputs), torch.randn(1, inputs, samples + kernel - stride)
        rows, run = x.mT.contiguous().mT, convolution(weight, bias, stride, 1, 1)
        both = {"plain": lambda: F.conv1d(x, weight, bias, stride), "ours": lambda: run(rows)}  # noqa: B023  called at once
        table.append({"layer": f"{inputs} to {outputs}, {kernel} / {stride}", **processor(both, 1 if quick else 5, 1)})
        if stride > 1:
            given = torch.randn(outputs, inputs, kernel)
            y = torch.randn(1, outputs, samples // stride)
            turned, back = y.mT.contiguous().mT, transposed(given, torch.randn(inputs), stride, 1)
            both = {"plain": lambda: F.conv_transpose1d(y, given, None, stride), "ours": lambda: back(turned)}  # noqa: B023
            table.append({"layer": f"{outputs} to {inputs}, {kernel} x {stride}", **processor(both, 1 if quick else 5, 1)})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", nargs="*", default=["small", "encodec", "mimi"], choices=["small", "encodec", "mimi"])
    parser.add_argument("--seconds", type=float, default=10.0, help="of sound")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--minutes", type=float, default=0.0, help="of sound whose memory is measured; 0 for none")
    parser.add_argument("--products", action="store_true", help="also the share of products and convolutions in the time of each side")
    parser.add_argument("--layers", action="store_true", help="the table of layers alone")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: whether it runs")
    arguments = parser.parse_args()
    configs: dict[str, dict[str, Any]] = {"small": SMALL, "encodec": {}, "mimi": {}}
    if arguments.quick:
        arguments.seconds, arguments.rounds, arguments.minutes, arguments.threads = 0.5, 1, 0.1, [1]
        configs = {"small": SMALL | TINY, "encodec": TINY, "mimi": TINY_MIMI}
    measured_on = machine()
    if arguments.layers:
        table = layers(arguments.quick)
        for row in table:
            print(f"  {row['layer']:<24} {1e3 * row['plain']:>8.2f} ms {1e3 * row['ours']:>8.2f} ms {row['plain'] / row['ours']:>6.1f}x")
        print(json.dumps({"machine": measured_on, "layers": table}))
        return
    rows, long = [], []
    for name in arguments.codecs:
        sides = Sides(name, configs[name])
        latency = sides.ours.latency
        assert latency is not None
        print(f"{name}: latency {latency.samples} samples, {1e3 * latency.seconds:.1f} ms")
        if arguments.minutes:
            long.append(memory(sides, arguments.minutes))
            print("  {minutes:g} minutes: {above_the_sound_mb:.0f} MB above {sound_mb:.0f} MB of sound".format(**long[-1]))
        for threads in arguments.threads:
            row = compare(sides, arguments.seconds, arguments.rounds, threads)
            rows.append(row)
            if arguments.products:
                row |= products(sides, arguments.seconds, threads)
                print(
                    "  products and convolutions alone: {encode_products_share:.0%} of encode (theirs {their_encode_products_share:.0%}), "
                    "{decode_products_share:.0%} of decode (theirs {their_decode_products_share:.0%})".format(**row)
                )
            print(
                "  {threads} threads: {times_real_time:.1f} x real time, theirs {their_times_real_time:.1f}: {faster:.2f}x "
                "(encode {encode_times_real_time:.1f} and {their_encode_times_real_time:.1f}, decode {decode_times_real_time:.1f} and "
                "{their_decode_times_real_time:.1f}); {codes_equal:.2%} of codes equal, sound {sound_apart:.1e} apart".format(**row)
            )
    print(json.dumps({"machine": measured_on, "rows": rows, "memory": long}))


if __name__ == "__main__":
    main()
