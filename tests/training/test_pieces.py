"""Schedule, average, optimizers and checkpoints, against closed forms."""

import math
import pickle

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from jielong.networks.repeated import RepeatedBlock
from jielong.training.checkpoint import CheckpointError, fingerprint, load_weights, read_tensors, save_checkpoint
from jielong.training.ema import Ema
from jielong.training.optimizers import build_optimizer, pack, unpack
from jielong.training.settings import TrainSettings


def test_the_rate_warms_up_and_follows_half_a_cosine():
    settings = TrainSettings(samples=1000, lr=2.0, warmup=100, min_lr_ratio=0.1)
    assert settings.rate(50, 0.0) == pytest.approx(1.0)
    assert settings.rate(100, 0.0) == pytest.approx(2.0)
    assert settings.rate(500, 0.5) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert settings.rate(1000, 1.0) == pytest.approx(0.2)
    assert settings.rate(750, 0.75) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5 * (1 - math.sqrt(0.5))))
    constant = settings.model_copy(update={"schedule": "constant"})
    assert [constant.rate(25, 0.0), constant.rate(900, 0.9)] == [0.5, 2.0]


def test_derived_numbers_follow_the_budget_and_impossible_ones_are_refused():
    settings = TrainSettings(samples=100_000, batch=32).resolved()
    assert (settings.warmup, settings.micro_batch, settings.log_every, settings.sample_every, settings.save_every) == (
        2000,
        32,
        500,
        10_000,
        5000,
    )
    assert TrainSettings(samples=10).resolved().log_every == 64
    with pytest.raises(ValidationError, match=r"warmup \(100\) must be shorter"):
        TrainSettings(samples=100, warmup=100)
    with pytest.raises(ValidationError, match=r"micro_batch \(65\) is a part of batch"):
        TrainSettings(samples=100, micro_batch=65)


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("count", torch.zeros(1))


def test_the_average_is_its_closed_form():
    model = Scalar()
    ema = Ema(model, decay=0.9)
    model.weight.data.fill_(1.0)
    # While (1 + t) / (10 + t) < 0.9, that is t < 80, the share of the start telescopes to n! 9! / (n + 9)!.
    for step in range(20):
        ema.update(step)
    share = math.factorial(20) * math.factorial(9) / math.factorial(29)
    assert float(ema.model().weight) == pytest.approx(1 - share, rel=1e-12)
    for step in range(20, 80):
        ema.update(step)
    before = 1 - float(ema.model().weight)
    for step in range(80, 100):
        ema.update(step)
    assert 1 - float(ema.model().weight) == pytest.approx(before * 0.9**20, rel=1e-6)


def test_the_average_shares_frozen_weights_and_takes_buffers_as_they_are():
    model = Scalar()
    ema = Ema(model, decay=0.9)
    assert ema.model().frozen is model.frozen
    assert set(ema.state()) == {"weight"}
    model.count.fill_(7)
    assert float(ema.model().count) == 7
    assert not ema.model().training


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.codebook = nn.Parameter(torch.randn(6, 4))
        self.conv = nn.Conv2d(4, 6, 3)
        self.hidden = nn.Linear(4, 9)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def names(model: nn.Module, parameters: list) -> set[str]:
    identities = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in identities}


def test_only_matrices_and_convolutions_decay():
    model = Net()
    decayed, plain = build_optimizer(model, TrainSettings(samples=1, weight_decay=0.1)).param_groups
    assert names(model, decayed["params"]) == {"conv.weight", "hidden.weight", "head.weight"}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    everything = names(model, decayed["params"]) | names(model, plain["params"])
    assert everything == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with pytest.raises(ValueError, match="has no parameters to train"):
        build_optimizer(nn.ReLU(), TrainSettings(samples=1))


def test_the_first_step_of_adamw_is_its_closed_form_in_any_memory_layout():
    torch.manual_seed(0)
    model = Net().to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, TrainSettings(samples=1, lr=0.1, weight_decay=0.5))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    grads = {name: torch.randn(parameter.shape) for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in model.named_parameters():
        if name in grads:
            parameter.grad = torch.empty_like(parameter).copy_(grads[name])  # autograd gives a gradient its parameter's layout
    optimizer.step()
    for name, parameter in model.named_parameters():
        decay = 0.5 if name in {"conv.weight", "hidden.weight", "head.weight"} else 0.0
        expected = before[name] if name not in grads else before[name] * (1 - 0.1 * decay) - 0.1 * grads[name].sign()
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-5)


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """Five quintic steps in double precision (Jordan et al., 2024)."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize(("native", "tolerance"), [(False, 1e-5), (True, 5e-3)])
def test_muon_orthogonalises_hidden_matrices_and_leaves_the_rest_to_adamw(native, tolerance, monkeypatch):
    """In float32 to its rounding; in bfloat16, where that is native, to bfloat16's: eight bits of updates of about 0.1."""
    pytest.importorskip("pytorch_optimizer")
    monkeypatch.setattr("jielong.training.optimizers.bf16_is_faster", lambda device: native)
    torch.manual_seed(0)
    model = Net()
    settings = TrainSettings(samples=1, optimizer="muon", lr=0.1, weight_decay=0.5)
    optimizer = build_optimizer(model, settings)
    hidden = [group for group in optimizer.param_groups if group["use_muon"]]
    assert names(model, hidden[0]["params"]) == {"conv.weight", "hidden.weight"}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    grads = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
            grads[name] = parameter.grad.clone()
    optimizer.step()
    for name in ("conv.weight", "hidden.weight"):
        flat = grads[name].flatten(1)
        wide = flat.mT if flat.shape[0] > flat.shape[1] else flat
        update = newton_schulz(wide)
        update = (update.mT if flat.shape[0] > flat.shape[1] else update).reshape(grads[name].shape) * 0.2 * math.sqrt(max(flat.shape))
        expected = before[name].double() * (1 - 0.1 * 0.5) - 0.1 * update
        torch.testing.assert_close(model.get_parameter(name).detach().double(), expected, rtol=1e-4, atol=tolerance)
    torch.testing.assert_close(model.head.bias.detach(), before["head.bias"] - 0.1 * grads["head.bias"].sign(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [24, 3], ids=["full", "deficient"])
@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (24, 47), (24, 24)], ids=["wide", "tall", "long", "square"])
def test_gram_newton_schulz_gives_the_update_of_newton_schulz(shape, rank, monkeypatch):
    """Wide matrices by their Gram matrix, with singular values of five magnitudes, and with zeros among them."""
    pytest.importorskip("pytorch_optimizer")
    monkeypatch.setattr("jielong.training.optimizers.bf16_is_faster", lambda device: False)
    torch.manual_seed(0)
    layer = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(shape[1], shape[0], bias=False)]), "head": nn.Linear(2, 2)})
    optimizer = build_optimizer(layer, TrainSettings(samples=1, optimizer="muon", lr=1.0, weight_decay=0.0))
    weight = layer["blocks"][0].weight
    before = weight.detach().clone()
    gradient = (torch.randn(shape[0], rank) * torch.logspace(0, -5, rank)) @ torch.randn(rank, shape[1])
    weight.grad = gradient.clone()
    optimizer.step()
    wide = gradient.mT if shape[0] > shape[1] else gradient
    update = newton_schulz(wide)
    expected = (update.mT if shape[0] > shape[1] else update) * 0.2 * math.sqrt(max(shape))
    torch.testing.assert_close((before - weight.detach()).double(), expected, rtol=0, atol=2e-4 * float(expected.abs().max()))


def test_muon_takes_the_blocks_of_a_head_and_leaves_the_layers_around_them():
    """A head that is the whole network, as of latent diffusion, has hidden matrices; its first and last layers are not among them."""
    pytest.importorskip("pytorch_optimizer")

    class Block(RepeatedBlock):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    model = nn.ModuleDict(
        {"head": nn.ModuleDict({"input": nn.Linear(2, 4), "blocks": nn.ModuleList([Block()]), "output": nn.Linear(4, 2)})}
    )
    optimizer = build_optimizer(model, TrainSettings(samples=1, optimizer="muon"))
    hidden = [group for group in optimizer.param_groups if group["use_muon"]]
    assert names(model, hidden[0]["params"]) == {"head.blocks.0.up.weight", "head.blocks.0.down.weight"}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_optimizer_goes_on_from_its_packed_state(kind):
    if kind == "muon":
        pytest.importorskip("pytorch_optimizer")
    settings = TrainSettings(samples=1, optimizer=kind, lr=0.1)

    def steps(model, optimizer, count, seed):
        torch.manual_seed(seed)
        for _ in range(count):
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape))
            optimizer.step()

    torch.manual_seed(0)
    model = Net().to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, settings)
    steps(model, optimizer, 2, seed=1)
    other = Net().to(memory_format=torch.channels_last)
    other.load_state_dict(model.state_dict())
    fresh = build_optimizer(other, settings)
    tensors, info = pack(optimizer)
    unpack(fresh, {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}, info)
    steps(model, optimizer, 2, seed=2)
    steps(other, fresh, 2, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_checkpoint_comes_back_and_narrow_ones_halve_the_parameters(tmp_path):
    model = Scalar().float()
    model.weight.data.fill_(1 / 3)
    model.count.fill_(1 / 3)
    save_checkpoint(tmp_path / "full", model, "recipe: {}")
    save_checkpoint(tmp_path / "narrow", model, "recipe: {}", dtype="bf16")
    assert (tmp_path / "full" / "recipe.yaml").read_text() == "recipe: {}"
    for folder in ("full", "narrow"):
        other = Scalar().float()
        load_weights(other, tmp_path / folder)
        rounded = model.weight.bfloat16().float() if folder == "narrow" else model.weight
        assert torch.equal(other.weight, rounded)
        assert torch.equal(other.count, model.count)
    stored = load_file(tmp_path / "narrow" / "model.safetensors")
    assert (stored["weight"].dtype, stored["count"].dtype) == (torch.bfloat16, torch.float32)


def test_a_fingerprint_is_of_values_and_not_of_how_they_lie():
    torch.manual_seed(0)
    model = nn.Conv2d(4, 4, 3).to(torch.bfloat16)
    print_of = fingerprint(model)
    assert fingerprint(model.float().to(memory_format=torch.channels_last)) == print_of
    model.weight.data[0, 0, 0, 0] += 1
    assert fingerprint(model) != print_of


def test_tied_weights_are_stored_under_both_names(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_checkpoint(tmp_path, model, "")
    load_weights(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), tmp_path)


def test_damaged_and_foreign_files_are_refused_by_a_sentence(tmp_path):
    model = nn.Linear(3, 2)
    weights = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="there are no weights at"):
        load_weights(model, tmp_path)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt beside it is a pickle, which can run any code"):
        load_weights(model, tmp_path)
    for data in ((tmp_path / "model.pt").read_bytes(), pickle.dumps({"weight": 1})):
        weights.write_bytes(data)
        with pytest.raises(CheckpointError, match="is a pickle"):
            load_weights(model, tmp_path)
    save_checkpoint(tmp_path, model, "")
    whole = weights.read_bytes()
    for length in (0, 5, 30, len(whole) - 1):
        weights.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=rf"is truncated \({length} bytes are there\)"):
            load_weights(model, tmp_path)
    weights.write_bytes(b"hello world, these are no weights at all")
    with pytest.raises(CheckpointError, match="model"):
        load_weights(model, tmp_path)


def test_a_header_that_begins_like_a_pickle_is_none(tmp_path):
    path = tmp_path / "model.safetensors"
    for length in range(300):
        save_file({"x" * (length + 1): torch.zeros(1)}, path)
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert list(read_tensors(path)) == ["x" * (length + 1)]


def test_weights_of_another_model_name_the_tensor_and_change_nothing(tmp_path):
    save_checkpoint(tmp_path, nn.Linear(3, 2), "")
    for other, message in (
        (nn.Linear(4, 2), r"tensor 'weight' is \(2, 3\), but the model's is \(2, 4\)"),
        (nn.Linear(3, 2, bias=False), "holds 1 tensors that the model does not have, first 'bias'"),
        (nn.Sequential(nn.Linear(3, 2)), r"lacks 2 of 2 tensors, first '0\.weight'"),
    ):
        before = fingerprint(other)
        with pytest.raises(CheckpointError, match=message):
            load_weights(other, tmp_path)
        assert fingerprint(other) == before
