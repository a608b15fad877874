"""The backbone against transformers' Llama of the same configuration: a training step, and cached decoding of one item.

    python benchmarks/backbone.py                 # both comparisons
    python benchmarks/backbone.py --attention     # the table behind the choice of attention kernel
    python benchmarks/backbone.py --quick         # a smoke run

Rounds of the two sides are interleaved, so that a busy neighbour slows both; medians are reported. The last line of the output is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import interleaved, machine
from torch import Tensor, nn

from jielong.networks.attention import attention, choose
from jielong.networks.backbone import BackboneInputs
from jielong.networks.transformer import Transformer, TransformerConfig
from jielong.training.precision import bf16_is_faster

VOCABULARY = 1024


class Ours(nn.Module):
    """Embedding, backbone, linear head: a language model, as Llama is."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.backbone = Transformer(TransformerConfig(layers=layers, width=width, heads=heads), axes=1)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        return self.head(self.backbone(BackboneInputs(self.embedding(ids), places[:, None], places)))

    @torch.inference_mode()
    def greedy(self, ids: Tensor, new: int) -> Tensor:
        total = ids.shape[1] + new
        places = torch.arange(total)
        coordinates = places[:, None]
        cache = self.backbone.new_cache(ids.shape[0], total)
        made, start = [ids], 0
        for _ in range(new):
            stop = start + ids.shape[1]
            hidden = self.backbone(BackboneInputs(self.embedding(ids), coordinates[start:stop], places[start:stop]), cache)
            ids = self.head(hidden[:, -1:]).argmax(-1)
            made.append(ids)
            start = stop
        return torch.cat(made, 1)


def llama_like(ours: Ours, positions: int) -> nn.Module:
    """A Llama of the same shape with the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    net = ours.backbone
    hidden = net.blocks[0].feed_forward.down.in_features
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=net.width,
        intermediate_size=hidden,
        num_hidden_layers=net.layers,
        num_attention_heads=net.heads,
        max_position_embeddings=positions,
        rms_norm_eps=net.norm.eps,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    llama = LlamaForCausalLM(config)
    state = {"model.embed_tokens.weight": ours.embedding.weight, "lm_head.weight": ours.head.weight, "model.norm.weight": net.norm.weight}
    for i, block in enumerate(net.blocks):
        q, k, v = block.attention.qkv.weight.chunk(3)
        gate, up = block.feed_forward.up.weight.chunk(2)
        layer = {
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.attention.out.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.feed_forward.down.weight,
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.forward_norm.weight,
        }
        state |= {f"model.layers.{i}.{name}.weight": tensor for name, tensor in layer.items()}
    llama.load_state_dict({name: tensor.detach() for name, tensor in state.items()})
    return llama


def training(arguments: argparse.Namespace) -> dict[str, float]:
    ours = Ours(arguments.layers, arguments.width, arguments.heads)
    llama = llama_like(ours, arguments.length)
    dtype = getattr(torch, arguments.dtype)
    ids = torch.randint(0, VOCABULARY, (arguments.batch, arguments.length + 1))

    def step(model: nn.Module, logits: Callable[[Tensor], Tensor]) -> Callable[[], float]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

        def run() -> float:
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                out = logits(ids[:, :-1])
            loss = F.cross_entropy(out.flatten(0, 1).float(), ids[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return run

    runs = {"jielong": step(ours, ours), "transformers": step(llama, lambda x: llama(x, use_cache=False).logits)}
    losses = [run() for run in runs.values()]
    if abs(losses[0] - losses[1]) > 1e-2:
        raise SystemExit(f"the two models disagree: losses {losses}")
    seconds = interleaved(runs, arguments.rounds)
    tokens = arguments.batch * arguments.length
    return {name: tokens / each for name, each in seconds.items()}


def decoding(arguments: argparse.Namespace) -> dict[str, float]:
    ours = Ours(arguments.layers, arguments.width, arguments.heads).eval()
    llama = llama_like(ours, arguments.new + 1).eval()
    first = torch.zeros(1, 1, dtype=torch.long)
    made: dict[str, Tensor] = {}

    def run_ours() -> None:
        made["jielong"] = ours.greedy(first, arguments.new)

    def run_llama() -> None:
        mask = torch.ones_like(first)
        made["transformers"] = llama.generate(
            first, attention_mask=mask, do_sample=False, max_new_tokens=arguments.new, min_new_tokens=arguments.new
        )

    seconds = interleaved({"jielong": run_ours, "transformers": run_llama}, arguments.rounds)
    same = (made["jielong"] == made["transformers"]).float().mean().item()
    return {name: arguments.new / each for name, each in seconds.items()} | {"same_tokens": same}


def attention_table(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Milliseconds of each kernel over batch, length and use."""
    dtype = getattr(torch, arguments.dtype)
    rows: list[dict[str, object]] = []
    width = arguments.width // arguments.heads
    cases = [(batch, n, n, grad) for grad in (True, False) for batch, n in ((64, 16), (64, 80), (16, 256), (4, 512), (2, 1024))]
    cases += [(1, 64, 64, False), (1, 256, 256, False)]
    cases += [(batch, 1, length, False) for batch in (1, 2, 16) for length in (16, 64, 256, 1024)]
    if arguments.quick:
        cases = [(2, 4, 4, True), (2, 4, 4, False), (1, 1, 4, False)]
    for batch, n, length, grad in cases:
        q, k, v = (torch.randn(batch, arguments.heads, size, width, dtype=dtype) for size in (n, length, length))
        if grad:
            q, k, v = (x.requires_grad_() for x in (q, k, v))

        def run(kernel: str, q: Tensor = q, k: Tensor = k, v: Tensor = v, grad: bool = grad) -> Callable[[], None]:
            repeats = 1 if q.shape[2] > 1 else 100

            def body() -> None:
                with torch.set_grad_enabled(grad):
                    for _ in range(repeats):
                        out = attention(q, k, v, causal=grad, kernel=kernel)  # type: ignore[arg-type]
                        if grad:
                            torch.autograd.grad(out, (q, k, v), out)

            return body

        seconds = interleaved({"plain": run("plain"), "fused": run("fused")}, arguments.rounds)
        repeats = 1 if n > 1 else 100
        with torch.set_grad_enabled(grad):
            rule = choose(q, k)
        rows.append(
            {"batch": batch, "queries": n, "keys": length, "gradient": grad, "rule": rule}
            | {name: 1e3 * each / repeats for name, each in seconds.items()}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64, help="sequences of a training step")
    parser.add_argument("--length", type=int, default=80, help="tokens of a sequence")
    parser.add_argument("--new", type=int, default=256, help="tokens to decode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="bfloat16" if bf16_is_faster(torch.device("cpu")) else "float32",
        help="of training",
    )
    parser.add_argument("--only", choices=("training", "decoding"))
    parser.add_argument("--attention", action="store_true", help="print the table of attention kernels instead")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.layers, arguments.width, arguments.heads, arguments.rounds = 1, 16, 2, 1
        arguments.batch, arguments.length, arguments.new = 2, 8, 4
    torch.manual_seed(0)
    report: dict[str, object] = {"dtype": arguments.dtype, **machine(arguments.threads)}
    if arguments.attention:
        report["attention"] = rows = attention_table(arguments)
        print(f"{'batch':>6}{'queries':>9}{'keys':>6}{'gradient':>10}{'plain ms':>11}{'fused ms':>11}  rule")
        for row in rows:
            print(
                f"{row['batch']:>6}{row['queries']:>9}{row['keys']:>6}{row['gradient']!s:>10}"
                f"{row['plain']:>11.3f}{row['fused']:>11.3f}  {row['rule']}"
            )
    else:
        print(f"{'tokens/s':<22}{'jielong':>12}{'transformers':>14}{'ratio':>8}")
        for name, measure in (("training", training), ("decoding", decoding)):
            if arguments.only in (None, name):
                found = measure(arguments)
                found["ratio"] = found["jielong"] / found["transformers"]
                report[name] = {key: round(value, 3) for key, value in found.items()}
                label = f"{name} ({arguments.dtype if name == 'training' else 'float32'})"
                print(f"{label:<22}{found['jielong']:>12.0f}{found['transformers']:>14.0f}{found['ratio']:>8.2f}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
