"""A run in progress: the loop, and what is due when. All processes share one clock, and stop and skip steps together."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from jielong.config.schedule import ScheduledSetting
from jielong.core.files import write_bytes
from jielong.core.interrupts import Interrupts
from jielong.core.json import JSON
from jielong.core.rng import seed_of
from jielong.media.images import sheet, write_image
from jielong.training.best import BestWeights, selection_of
from jielong.training.blocks import GraphBreaks, prepare_blocks
from jielong.training.budget import Budget
from jielong.training.checkpoint import fit_tensors
from jielong.training.ema import Ema
from jielong.training.nonfinite import NonFiniteError, range_advice
from jielong.training.objective import Objective
from jielong.training.optimizers import pack
from jielong.training.pauses import summary_of, words
from jielong.training.power_ema import PowerEmas, remove_later_snapshots
from jielong.training.prefetch import BatchPrefetcher
from jielong.training.room import check_states
from jielong.training.run_logger import RunLogger
from jielong.training.settings import TrainSettings
from jielong.training.sharding import gathered, shard_blocks
from jielong.training.state import Counters, RunState, fitting_state, write_state
from jielong.training.step import MicroBatches, PhaseResult, Stepper, broadcast_from_first
from jielong.training.summary import Kept, Stopped, Summary

MAX_SKIPPED = 3
"""Steps in a row that may be skipped because numbers are not finite."""

Model = TypeVar("Model", bound=nn.Module)


class Run(Generic[Model]):
    """A run in progress; the arguments are those of :func:`jielong.training.trainer.train`."""

    def __init__(
        self,
        objective: Objective[Model],
        settings: TrainSettings,
        out: Path,
        accelerator: Accelerator,
        budget: float | None,
        state: RunState | None,
        prefetcher: BatchPrefetcher,
        logger: RunLogger,
        evaluating: bool = True,
        schedule: Sequence[ScheduledSetting] = (),
    ) -> None:
        self.evaluating = evaluating
        self.objective, self.out, self.settings = objective, out, settings.resolved()
        self.accelerator, self.prefetcher, self.logger = accelerator, prefetcher, logger
        objective.to(accelerator.device).train()
        self.ema = Ema(objective.model, settings.ema)
        self.power_emas = PowerEmas(objective.model, settings.ema_lengths)
        self._modules = set(objective.model.modules())  # of the EMA: a phase may train all of them, or some
        self._graph_breaks = GraphBreaks(settings.compile)
        self.counters = state.counters if state is not None else Counters()
        self.budget = Budget(self.settings, budget, self.counters, schedule)
        self.metrics: JSON = {}
        selection = selection_of(settings, objective.figures if evaluating else {}, objective.keeps_best)
        self.best = BestWeights(selection, objective, self.ema, self.counters, accelerator)
        if budget is None and selection is not None and (selection.keeps_best or selection.patience is not None):
            self.budget.spaced.discard("evaluation")  # what is kept, and when the run ends, may not depend on the clock
        if state is not None:
            with fitting_state(out):
                fit_tensors(objective, state.tensors["objective"], "objective.safetensors")
                self.ema.restore(state.tensors["ema"])
                self.power_emas.restore(state.tensors)
            if accelerator.is_main_process:
                remove_later_snapshots(out, self.counters.steps)
            self.best.tensors = dict(state.tensors.get("best", {}))
        if accelerator.num_processes > 1:
            broadcast_from_first([*objective.state_dict().values(), *self.ema.state().values()])
        prepare_blocks(objective.model, settings)  # behind the EMA, which is a copy without these settings
        if (line := shard_blocks(objective, objective.model, accelerator)) is not None:
            self.ema.divide()
            self.power_emas.divide()
            logger.print(line)
        self.stepper = Stepper(objective, settings, accelerator, prefetcher)
        if state is not None:
            self.metrics = logger.last_line()
            with fitting_state(out):
                self.stepper.restore(state)
        self.signal: int | None = None
        self._seconds_before, self._start = self.counters.seconds, time.perf_counter()
        self.logged = (self.counters.samples, 0.0)  # samples at the last line of the log, and seconds of steps since

    def loop(self, interrupts: Interrupts, stop_after: int | None) -> Stopped:
        """Step until the budget is used or a stop is requested."""
        counters, settings, budget = self.counters, self.settings, self.budget
        position = budget.position
        while True:
            self.signal = self._synchronise(interrupts.signal)
            if (stopped := self._stopped(stop_after)) is not None:
                budget.ended = True
                return stopped
            start = time.perf_counter()
            self._step()
            counters.samples += settings.batch
            self._graph_breaks.say_once(self.logger.print)
            self.logged = (self.logged[0], self.logged[1] + budget.record("step", time.perf_counter() - start))
            self._show()
            last = counters.samples >= settings.samples
            before, position = position, budget.position
            samples_due = not last and budget.due("sample", before)
            if samples_due and self.evaluating and self._fits("evaluation"):
                self._evaluate()
            if last or budget.due("log", before):
                self._log()
            if samples_due and self._fits("sample"):
                self.write_samples()
            if not last and budget.due("save", before):
                self.save_snapshots()
                if self._fits("save"):
                    self.save()
                    start = time.perf_counter()
                    if self.logger.draw():
                        budget.record("curve", time.perf_counter() - start)

    def _stopped(self, stop_after: int | None) -> Stopped | None:
        """Why no further step is made, if none is."""
        if self.counters.samples >= self.settings.samples:
            return "finished"
        if self.budget.spent >= 1:
            return "budget"
        if self.signal is not None:
            return "interrupted"
        if self.best.exhausted:
            return "early_stopping"
        return "stop_after" if stop_after is not None and self.counters.samples >= stop_after else None

    def _fits(self, what: str) -> bool:
        """Whether a pause that is due is made; what is left out is reported once."""
        fits, pause = self.budget.fits(what), self.counters.pause_seconds.get(what)
        if not fits and pause is not None and pause.left_out == 1:
            self.logger.print(words(what, pause, self.counters.samples))
        return fits

    def _synchronise(self, signal: int | None = None) -> int | None:
        """Set all clocks to the first process's; the signal that interrupts any of the processes."""
        self.counters.seconds = self._seconds_before + time.perf_counter() - self._start
        self.budget.look()
        if self.accelerator.num_processes > 1:
            fitting = self.budget.fitting  # the first process alone measures, so the others learn from it how long ago the best figure was
            shared = [self.counters.seconds, self.budget.reserve, self.counters.since_best, *map(float, fitting.values())]
            mine = shared if self.accelerator.is_main_process else [0.0] * len(shared)
            local = torch.tensor([[*mine, float(signal or 0)]], dtype=torch.float64, device=self.accelerator.device)
            gathered = self.accelerator.gather(local)
            self.counters.seconds, self.budget.reserve, since_best, *fits = gathered[:, :-1].sum(0).tolist()
            self.counters.since_best = int(since_best)
            self.budget.fitting = dict(zip(fitting, map(bool, fits), strict=True))
            signal = int(gathered[:, -1].max()) or None
        return signal

    def _step(self) -> None:
        """All phases on one global batch."""
        counters, seen, settings = self.counters, self.counters.samples, self.settings
        torch.manual_seed(seed_of(settings.seed, "step", self.accelerator.process_index, seen))
        batches = self.prefetcher.take(seen)
        before, position = self.budget.last_position, self.budget.position
        counters.position = position
        if seen and self.objective.training_stage(position) != self.objective.training_stage(before):
            self.ema.copy_to_model()
            self.best.forget()  # figures of another stage are of another model
        if seen == 0 and (odd := range_advice(batches[0][1].media)):
            self._warn(odd)
        rate = settings.rate(position + settings.batch, self.budget.progress)
        values, trained = {"lr": rate}, []
        for phase, module in self.objective.phases.items():
            if not self.objective.active(phase, position):
                continue
            result = self.stepper.run(phase, batches, seen, position, rate * self.objective.lr_ratio(phase))
            if not result.finite:
                self._skip(phase, batches, result)
                break
            values |= result.values
            trained.append(module)
        else:
            counters.skipped_in_a_row = 0
        if any(not self._modules.isdisjoint(module.modules()) for module in trained):
            self.ema.update(counters.steps)
            self.power_emas.update(counters.steps)
            counters.steps += 1
        for name, value in values.items():
            counters.sums[name] = counters.sums.get(name, 0.0) + value
            counters.weights[name] = counters.weights.get(name, 0) + 1

    def _skip(self, phase: str, batches: MicroBatches, result: PhaseResult) -> None:
        """Count and record a step whose numbers were not finite; after several in a row, raise :class:`NonFiniteError`."""
        counters, rank = self.counters, self.accelerator.process_index
        counters.skipped += 1
        counters.skipped_in_a_row += 1
        numbers = {name: str(value) for name, value in result.values.items()}
        record = {"samples": counters.samples, "phase": phase, **numbers, "keys": [key for _, batch in batches for key in batch.keys]}
        name = f"nonfinite-{counters.samples:012d}" + (f"-process{rank}" if rank else "") + ".json"
        write_bytes(self.out / name, json.dumps(record, indent=1).encode())
        found = f"loss {result.values['loss']}, gradient {result.values['grad_norm']}"
        self.logger.warn(f"the step at {counters.samples:,} samples was skipped: {found}")
        if counters.skipped_in_a_row >= MAX_SKIPPED:
            torch.manual_seed(seed_of(self.settings.seed, "step", rank, counters.samples))
            place = self.stepper.first_nonfinite(phase, batches, counters.samples, self.budget.last_position)
            raise NonFiniteError(
                f"{counters.skipped_in_a_row} steps in a row were not finite in phase {phase!r}: {place}. "
                f"Try a lower learning rate (train.lr), a longer warmup, or precision: fp32; the last items are in {self.out / name}"
            )

    def _show(self) -> None:
        sums, weights = self.counters.sums, self.counters.weights
        loss = sums["loss"] / weights["loss"] if "loss" in sums else math.nan
        phases = [phase for phase in self.objective.phases if self.objective.active(phase, self.budget.last_position)]
        self.logger.show(" + ".join(phases), self.budget.progress, self._samples_per_second, loss, self.budget.left)

    @property
    def _samples_per_second(self) -> float:
        """Samples per second since the last line of the log, of steps alone."""
        first, seconds = self.logged
        return (self.counters.samples - first) / seconds if seconds else 0.0

    def _log(self) -> None:
        """Write a line of the log and reset the sums."""
        counters = self.counters
        means = {name: total / counters.weights[name] for name, total in counters.sums.items()}
        if self.accelerator.num_processes > 1 and means:
            vector = torch.tensor([means[name] for name in sorted(means)], dtype=torch.float64, device=self.accelerator.device)
            means = dict(zip(sorted(means), self.accelerator.reduce(vector, "mean").tolist(), strict=True))
        line: JSON = {"samples": counters.samples, "seconds": round(counters.seconds, 2)}
        line |= {"samples_per_second": round(self._samples_per_second, 2), **means, "skipped": counters.skipped}
        line |= {f"{what}_seconds": round(pause.seconds, 2) for what, pause in counters.pause_seconds.items()}
        line |= self.objective.statistics() | counters.heldout
        if advice := self.objective.advice():
            line["advice"] = advice
            self._warn(advice)
        self.logger.log(line, self.budget.progress, self.budget.left)
        self.metrics = line
        counters.sums.clear()
        counters.weights.clear()
        counters.heldout.clear()
        self.logged = (counters.samples, 0.0)

    def _warn(self, text: str) -> None:
        """Print a warning once per run."""
        if text not in self.counters.warned:
            self.counters.warned.append(text)
            self.logger.warn(text)

    def _evaluate(self) -> None:
        """Measure the EMA weights on held-out items, for the next line of the log, and warn of overfitting."""
        start, counters, model = time.perf_counter(), self.counters, self.ema.model()
        if self.accelerator.is_main_process:
            found = self.objective.evaluate(model)
            self.objective.train()
            counters.heldout = {name: value for name, value in found.items() if isinstance(value, float)}
            self.best.follow(counters.heldout)
            if (line := self.best.overfitting(counters.heldout)) and not any(
                text.startswith("the held-out loss") for text in counters.warned
            ):
                self._warn(line)
        self.budget.record("evaluation", time.perf_counter() - start)

    def write_samples(self) -> None:
        """Write the sample grids of the raw and of the EMA weights; of audio, spectrograms and a sound file of the EMA weights' samples."""
        start = time.perf_counter()
        samples = []
        self.objective.eval()
        for weights in (self.ema.raw_model, self.ema.model):
            model = weights()
            if self.accelerator.is_main_process and (found := self.objective.samples(model)) is not None:
                samples.append(found)
        self.objective.train()
        if samples:
            grids = [each.sheet(each.sample_columns) for each in samples]
            both = sheet(grids, columns=2, captions=["raw weights", "EMA weights"], padding=8)
            self.logger.picture("samples", both, self.counters.samples)
            path = write_image(self.out / "samples" / f"samples-{self.counters.samples:012d}.png", both)
            if samples[-1].sample_suffix is not None:
                samples[-1].save(path.with_suffix(samples[-1].sample_suffix))
        self.budget.record("sample", time.perf_counter() - start)

    def check_room(self) -> None:
        """Check that the states and the weights that the run will save fit on the disk (:func:`check_states`)."""
        several = self.budget.seconds is not None or self.settings.samples > (self.settings.save_every or 0)
        # A new state is written whole before the older one is removed; that of a resumed run takes its room already.
        states = 2 if several and self.counters.samples == 0 else 1
        copies = int(self.best.kept) + len(self.settings.ema_lengths)
        check_states(self.out, self.objective, self.ema, self.stepper.optimizers.values(), copies, states)

    def save_snapshots(self) -> None:
        """Save a snapshot of each power-function EMA."""
        if self.accelerator.is_main_process and self.settings.ema_lengths:
            start = time.perf_counter()
            self.power_emas.save_snapshots(self.out, self.counters.steps)
            self.budget.record("snapshot", time.perf_counter() - start)

    def save(self) -> None:
        """Save the whole state."""
        start = time.perf_counter()
        self._synchronise()
        packed = {phase: pack(optimizer) for phase, optimizer in self.stepper.optimizers.items()}
        tensors = {"objective": self.objective.state_dict(), "ema": self.ema.state(), **self.power_emas.state()}
        if self.best.tensors:
            tensors["best"] = self.best.tensors
        tensors |= {f"optimizer-{phase}": state for phase, (state, _) in packed.items()}
        tensors = {name: gathered(each, keep=self.accelerator.is_main_process) for name, each in tensors.items()}
        if self.accelerator.is_main_process:
            self.counters.metrics_bytes = self.logger.bytes
            write_state(self.out, RunState(self.counters, tensors, {phase: info for phase, (_, info) in packed.items()}))
        self.accelerator.wait_for_everyone()
        self.budget.record("save", time.perf_counter() - start)

    def summary(self, stopped: Stopped, evaluation: JSON, kept: Kept | None = None, command: str | None = None) -> Summary:
        """The summary of the run."""
        self.stepper.release()
        counters, trained = self.counters, sum(p.numel() for p in self.objective.model.parameters() if p.requires_grad)
        world = self.accelerator.num_processes
        return Summary(
            samples=counters.samples,
            steps=counters.steps,
            skipped=counters.skipped,
            seconds=round(counters.seconds, 2),
            parameters=trained,
            processes=world,
            stopped=stopped,
            metrics=self.metrics,
            evaluation=evaluation,
            budget=self.budget.seconds,
            unreached=self.budget.unreached(),
            pause_seconds=summary_of(counters.pause_seconds),
            command=command,
            kept=kept or Kept(),
            signal=self.signal,
        )
