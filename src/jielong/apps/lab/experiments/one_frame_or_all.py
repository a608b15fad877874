"""Training steps that mask one frame behind a clean past against steps that mask all frames, at equal training time (VideoMAR)."""

from __future__ import annotations

from jielong.apps.lab.chains import TrainingPlan
from jielong.apps.lab.continuing import GIVEN, RECIPE, compare_continuations
from jielong.apps.lab.trial import Bench, Outcome, Trial

SECONDS, COUNT = 50.0, 96


def _plan(name: str, drawn: str) -> TrainingPlan:
    inside = "{masked: {schedule: cosine, steps: 4, choose: random, ratio: {kind: truncated_normal}}}"
    return TrainingPlan(
        name,
        RECIPE.format(
            order=f"{{frames: {{given: {GIVEN}, drawn: {drawn}, inside: {inside}}}}}",
            backbone="{transformer: {layers: 4, width: 96, heads: 3}}",
            head="{diffusion: {network: {mlp: {layers: 2, width: 128}}, steps: 16, diffusion_batch_mul: 2}}",
        ),
    )


ONE, ALL = _plan("one frame", "batch"), _plan("all frames", "all")
"""One model and one way of sampling, frame by frame; only the masks of training differ."""


class OneFrameOrAll(Trial, name="one-frame-or-all"):
    """Diffusion per patch of moving digits, sampled frame by frame from a clean past, after two ways of masking in training.

    VideoMAR (arXiv 2506.14168) masks one frame a step, with all before it known and nothing behind it; its ablation gains a point of VBench
    over masking all frames at one ratio, which trains on pasts that are masked in part and never occur in sampling.
    """

    claim = (
        "At equal training time, a model whose training steps mask one frame behind a clean past continues given frames with a lower error "
        "than one whose steps mask all frames, and its last frames are closer to real ones."
    )

    def run(self, bench: Bench) -> Outcome:
        """Train both for the same time, and continue held-out clips."""
        remark = "a step on one frame computes no frame behind it, and has fewer tokens to learn from; equal time decides between both"
        return compare_continuations(bench, (ONE, ALL), SECONDS, COUNT, [remark])
