"""Compiled blocks compute what the others do, leave no trace in checkpoints, and a resumed run equals an uninterrupted one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_divided_batches import Divided

from jielong.config.recipe import load
from jielong.config.registry import RecipeError
from jielong.networks.convolutional import ResidualBlock
from jielong.networks.repeated import blocks_of
from jielong.training import blocks, experiment
from jielong.training.blocks import GraphBreaks, check_blocks, prepare_blocks

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
COMPILED = load("kl-tiny").train.model_copy(update={"compile": True})


@pytest.fixture
def _traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks are traced, forward and backward, and run by PyTorch's own kernels: no C++ is compiled."""
    monkeypatch.setattr(blocks, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_traced")
@pytest.mark.parametrize("name", ["maskgit-tiny", "kl-tiny"])
def test_a_compiled_step_equals_one_that_is_not(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    divided, breaks = Divided(name), GraphBreaks()
    model, keys = divided.objective.model, list(divided.objective.state_dict())
    plain = divided.step((0, 4))
    prepare_blocks(model, divided.settings.model_copy(update={"compile": True, "gradient_checkpointing": True}))
    compiled = divided.step((0, 4))
    for each, gradient in plain.gradients.items():  # casts to float32 are not double in what is traced
        assert float((gradient - compiled.gradients[each]).norm()) <= 1e-6 * float(gradient.norm()), each
    assert list(divided.objective.state_dict()) == keys
    assert all(block._compiled_call_impl is not None for _, block in blocks_of(model))
    assert breaks.words() == "compiled the repeated blocks without graph breaks"


@pytest.mark.usefixtures("_traced")
def test_breaks_are_counted_with_their_reason() -> None:
    class Breaking(ResidualBlock):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return super().forward(x)

    breaks, model = GraphBreaks(), torch.nn.Sequential(Breaking(4, 4))
    prepare_blocks(model, COMPILED)
    model(torch.zeros(1, 4, 2, 2))
    assert breaks.words().startswith("compiled the repeated blocks with 1 graph breaks, most often: Call to `torch._dynamo.graph_break()`")


@pytest.mark.usefixtures("_traced")
def test_a_compiled_run_resumes_and_writes_a_plain_checkpoint(tmp_path: Path) -> None:
    recipe = load("kl-tiny")
    update = {"batch": 4, "samples": 12, "warmup": 1, "precision": "fp32", "compile": True}
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=update)})
    options = {"device": "cpu", "progress": False, "evaluate": False}
    experiment.run(recipe, tmp_path / "whole", **options)
    experiment.run(recipe, tmp_path / "parts", stop_after=8, **options)
    experiment.run(recipe, tmp_path / "parts", **options)
    plain = recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": False})})
    experiment.run(plain, tmp_path / "plain", **options)
    whole, parts, without = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts", "plain"))
    assert whole.keys() == without.keys()
    for name, value in whole.items():
        assert torch.equal(parts[name], value), name
        torch.testing.assert_close(value, without[name], rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.skipif(blocks._cannot_compile() is not None, reason="there is no C++ compiler")
def test_inductor_compiles_a_block_with_its_gradient() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(ResidualBlock(4, 4)), torch.randn(2, 4, 8, 8, requires_grad=True)
    plain = model(x)
    (gradient,) = torch.autograd.grad(plain.square().sum(), x)
    prepare_blocks(model, COMPILED)
    compiled = model(x)
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(compiled.square().sum(), x)[0], gradient, rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


def test_without_a_compiler_compiling_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_cannot_compile", lambda: "torch.compile needs a C++ compiler, and there is none")
    with pytest.raises(RecipeError, match=r"train\.compile: .* there is none; install g\+\+"):
        check_blocks(torch.nn.Sequential(ResidualBlock(4, 4)), COMPILED)
    with pytest.raises(RecipeError, match=r"train\.compile: this model has no repeated blocks to compile"):
        check_blocks(torch.nn.Linear(2, 2), COMPILED)
