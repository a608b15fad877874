"""Settings of a training run, and its learning-rate schedule. Everything that counts data counts samples seen, not steps."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from jielong.config.adapter import LoraSettings
from jielong.config.registry import Config
from jielong.config.schedule import End, Interval

Beta = Annotated[float, Field(ge=0, lt=1)]
MAX_LENGTH = 0.28
"""Lengths of power-function EMAs are below it; that of a plain mean of all steps is 0.289."""
EmaLength = Annotated[float, Field(gt=0, lt=MAX_LENGTH)]

PER_RUN = {"log": 200, "sample": 10, "save": 20}
"""How often a run logs, writes a sample grid and saves by default, over its whole budget."""


class Balance(Config):
    """Settings of :class:`jielong.training.balancer.Balancer`.

    Attributes:
        norm: ``R``, the norm of the gradient at one item's reconstruction when all losses pull the same way.
        decay: Of the averages of the gradients' norms, a step.
    """

    norm: PositiveFloat = 1.0
    decay: float = Field(default=0.999, ge=0, lt=1)


class TrainSettings(Config):
    """The ``train`` section of a recipe. ``warmup`` and the intervals are samples, or shares of ``samples`` between 0 and 1.

    Attributes:
        samples: The budget in samples seen; the last step may pass it by less than a batch.
        batch: Samples a step, over all processes and micro-batches.
        micro_batch: Samples computed at once by a process; gradients of several are accumulated. ``None``: all of its share.
        gradient_checkpointing: Keep the inputs alone of every repeated block for the backward pass, which computes the block again: less
            memory, and one more forward pass of the blocks.
        compile: Compile every repeated block by ``torch.compile`` in training; losses change by rounding. Sampling is not compiled.
        optimizer: ``adamw``; or ``muon``, which orthogonalises the updates of hidden matrices and uses AdamW for the rest.
        lr: Peak learning rate. Muon's updates are scaled to AdamW's size, so the same value serves both.
        betas: Decay rates of AdamW's moments.
        weight_decay: Decoupled; on matrices and convolutions only, never on embeddings, codebooks, norms and biases.
        warmup: Samples over which the rate rises from zero; by default a fiftieth of the budget.
        schedule: After it, ``cosine`` down to ``min_lr_ratio``, or ``constant``.
        min_lr_ratio: Where the cosine ends, as a fraction of ``lr``.
        clip: Largest norm of a gradient; ``null`` for no limit.
        ema: Decay of the EMA weights per step; 0 keeps none. It is at most ``(1 + t) / (10 + t)`` after ``t`` steps, so that the initial
            weights are forgotten. The EMA covers about ``batch / (1 - ema)`` samples.
        ema_lengths: Lengths of power-function EMAs, as shares of the run, such as ``[0.05, 0.1]`` (``sigma_rel`` of EDM2). Snapshots of
            them are written at every save, and ``jielong weights`` makes the EMA of any length from these after the run.
        precision: ``bf16`` or ``fp32``; ``auto`` is bf16 where that is the faster one.
        seed: Of the order of the data and of every random draw.
        keep: Which EMA weights the checkpoint holds: ``best`` by a held-out figure, or ``last``. ``auto``: the best of a generator whose
            loss compares weights, where items are held out, else the last.
        best_by: The held-out figure that chooses the best; ``None``: ``heldout_loss``, or the first of a tokenizer's figures.
        patience: Early stopping: end the run after so many held-out evaluations in a row without a better figure; ``None``: never.
        init_from: A shipped model's name, a checkpoint's folder, or an address of the Hub, whose tensors of the same name and shape
            initialise the model; others, such as those of another head, are initialised at random.
        freeze: Parts that keep the weights of ``init_from``, by names of modules, such as ``[backbone.blocks.0-11, condition]``: ``*``
            stands for any name, ``a-b`` for numbers; the names of a tokenizer's recipe begin with ``tokenizer``, such as
            ``tokenizer.encoder``. They have no dropout, and their statistics and codebooks stay.
        lora: Train low-rank updates of the model ``init_from`` in place of its weights. The run leaves a small file that any command takes
            by ``--adapter``.
        log_every: Samples between two lines of the log; ``None``: a two-hundredth of the budget (of time, where there is one).
        sample_every: Samples between two sample grids; ``None``: a tenth.
        save_every: Samples between two saves of the whole state; ``None``: a twentieth.
    """

    samples: PositiveInt
    batch: PositiveInt = 64
    micro_batch: PositiveInt | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: PositiveFloat = 3e-4
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: End | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    min_lr_ratio: float = Field(default=0.01, ge=0, le=1)
    clip: PositiveFloat | None = 1.0
    ema: float = Field(default=0.999, ge=0, lt=1)
    ema_lengths: tuple[EmaLength, ...] = ()
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    seed: int = 0
    keep: Literal["auto", "best", "last"] = "auto"
    best_by: str | None = None
    patience: PositiveInt | None = None
    init_from: str | None = None
    freeze: tuple[str, ...] = ()
    lora: LoraSettings | None = None
    log_every: Interval | None = None
    sample_every: Interval | None = None
    save_every: Interval | None = None

    @model_validator(mode="after")
    def _sizes_agree(self) -> TrainSettings:
        if self.micro_batch is not None and self.micro_batch > self.batch:
            raise ValueError(f"micro_batch ({self.micro_batch}) is a part of batch ({self.batch}) and cannot be larger")
        if self.warmup is not None and self.warmup >= self.samples:
            raise ValueError(f"warmup ({self.warmup}) must be shorter than the budget of {self.samples} samples")
        if self.keep == "last" and self.best_by is not None and self.patience is None:
            raise ValueError(f"best_by ({self.best_by}) chooses nothing under keep: last without patience; set keep: best, or leave it out")
        if self.lora is not None and self.init_from is None:
            raise ValueError("lora updates a trained model: set init_from to its name, folder or address")
        if self.lora is not None and self.freeze:
            raise ValueError("lora keeps all weights of its model as they are, so freeze has nothing to add: remove one of them")
        if self.freeze and self.init_from is None:
            raise ValueError("freeze keeps weights as they are, and without init_from they are random: name the checkpoint they come from")
        return self

    def resolved(self) -> TrainSettings:
        """The same settings with every derived number filled in."""
        derived = {
            "warmup": self.samples // 50,
            "micro_batch": self.batch,
            **{f"{what}_every": max(self.batch, self.samples // parts) for what, parts in PER_RUN.items()},
        }
        return self.model_copy(update={name: value for name, value in derived.items() if getattr(self, name) is None})

    def rate(self, samples: int, progress: float) -> float:
        """Learning rate of a step.

        ``lr * min(1, samples / warmup) * (r + (1 - r) (1 + cos(pi progress)) / 2)``, with ``r = min_lr_ratio``; a constant schedule
        has only the first two factors.

        Args:
            samples: Samples seen when the step is done.
            progress: Fraction of the budget (of samples, or of time if that is shorter) that was used before the step.
        """
        warmup = self.samples // 50 if self.warmup is None else self.warmup
        rate = self.lr * min(1.0, samples / warmup if warmup else 1.0)
        if self.schedule == "constant":
            return rate
        return rate * (self.min_lr_ratio + (1 - self.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
