"""A training run: phase after phase, epoch after epoch, step after step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from irv2data.errors import InterruptedRunError
from irv2data.machine import peak_memory
from irv2data.pipeline.config import NATIVE
from irv2data.pipeline.meter import Meter, Reading
from irv2data.training.checkpoint import Checkpoints
from irv2data.training.config import TrainConfig
from irv2data.training.done import Done
from irv2data.training.evaluation import Evaluator
from irv2data.training.inputs import Inputs
from irv2data.training.journal import Journal, line
from irv2data.training.model import learning_groups, unfreeze
from irv2data.training.optimizer import make_optimizer
from irv2data.training.phases import Phase, best_epoch, phases, stops_early
from irv2data.training.profiling import Profile
from irv2data.training.step import Objective, TrainStep
from irv2data.training.strategy import any_host

Log = Callable[[str], None]
Progress = Callable[[str, int, int], None]


class Run:
    """A run in the making: what is done so far, and the next epochs of it."""

    def __init__(
        self,
        *,
        model: keras.Model,
        inputs: Inputs,
        config: TrainConfig,
        objective: Objective,
        strategy: tf.distribute.Strategy,
        checkpoints: Checkpoints,
        best: Checkpoints,
        journal: Journal | None,
        profile: Profile,
        done: Done,
        log: Log,
        progress: Progress,
        stop: Callable[[], bool],
    ):
        self._model = model
        self._inputs = inputs
        self._config = config
        self._objective = objective
        self._strategy = strategy
        self._checkpoints = checkpoints
        self._best = best
        self._journal = journal
        self._profile = profile
        self._done = done
        self._log = log
        self._progress = progress
        self._stop = stop
        self._phases = phases(config)
        self._validate = None
        if inputs.validation is not None:
            self._validate = Evaluator(model, inputs.validation, strategy, inputs.preprocess_validation())

    def begin(self, *, resumed: bool) -> None:
        """Evaluates the untrained network, or brings back what the last checkpoint holds."""
        if self._validate is not None and not resumed:
            self._done.before = self._validate(self._validating).figures()
        phase = [phase for phase in self._phases if phase.first <= self._done.epoch][-1]
        self._begin_phase(phase)
        if resumed:
            # At the first step of a phase the optimizer is a new one, and the checkpoint's of the phase before.
            begins = (self._done.epoch, self._done.step) == (phase.first, 0)
            self._checkpoints.restore(self._step.weights if begins else self._step.variables)

    def train(self) -> None:
        """The epochs that are left.

        Raises:
            InterruptedRunError: It was asked to stop; a checkpoint is written.
        """
        done = self._done
        begins = {phase.first: phase for phase in self._phases if phase.first > done.epoch}
        if self._stops_early():
            return
        for epoch, batches in self._inputs.batches(done.epoch, done.step):
            if epoch in begins:
                self._begin_phase(begins[epoch])
            row = {"epoch": epoch, "phase": self._phase.name, **self._epoch(batches)}
            if self._validate is not None:
                with self._step.optimizer.averaged():
                    after = self._validate(self._validating)
                    row |= {f"validation_{name}": value for name, value in after.figures().items() if name != "records"}
                    done.after = after.figures()
                    losses = [*(each["validation_loss"] for each in done.history), row["validation_loss"]]
                    if self._config.patience and best_epoch(losses) == epoch and self._journal is not None:
                        self._best.save(f"{epoch:04d}", self._step.weights, {"epoch": epoch})
            done.history.append(row)
            self._log(line(row, self._inputs.epochs))
            if self._journal is not None:
                self._journal.epoch(done.history)
            done.epoch, done.step, done.sums = epoch + 1, 0, []
            self._save()
            if self._stops_early():
                self._log(f"no smaller validation loss for {self._config.patience} epochs: stopped early")
                return
            if done.epoch < self._inputs.epochs and any_host(self._strategy, self._stop()):
                raise self._interrupted()

    @contextmanager
    def weights_to_save(self) -> Iterator[None]:
        """Within, the model has the weights that the run is about: averages, or those of the best epoch."""
        if not self._config.patience or self._journal is None:  # what other hosts end with is saved nowhere
            with self._step.optimizer.averaged():
                yield
            return
        best = best_epoch([row["validation_loss"] for row in self._done.history])
        self._best.restore(self._step.weights)
        assert self._done.after is not None
        self._done.after |= {
            name: self._done.history[best][f"validation_{name}"] for name in self._done.after if name != "records"
        }
        yield

    def _begin_phase(self, phase: Phase) -> None:
        config = self._config
        if phase.unfreeze:
            unfreeze(self._model, phase.unfreeze)
        groups = learning_groups(self._model, phase.unfreeze, config.block_decay)
        with self._strategy.scope():
            optimizer = make_optimizer(groups, phase, self._inputs.steps_of(phase), config)
        output = self._inputs.training(phase.first).output
        self._phase = phase
        self._step = TrainStep(
            self._strategy, self._model, optimizer, config.batch_size, output, self._objective, config.accumulate
        )

    def _epoch(self, batches: Iterator[Any]) -> dict[str, Any]:
        """Trains what is left of an epoch; returns its row of the history, with the learning rate at its end.

        Rate and waiting leave out the first step, which traces the graphs. Waiting is the time in which the loop had
        nothing to hand to the devices; while they still work on the step before, they do not wait themselves.
        """
        done, preprocess = self._done, self._inputs.preprocess(self._done.epoch)
        training, steps, begun = self._inputs.training(done.epoch), self._inputs.steps(done.epoch), self._done.step
        late, meter = _Late(done.sums), Meter(training, self._strategy.num_replicas_in_sync)
        metered, started = meter(batches), meter.reading()
        told = started
        while done.step < steps:
            with self._profile.step(late.read):
                with self._profile.part("waiting for a batch"):
                    batch = next(metered)
                inputs = preprocess(batch)
                if done.step == 0 and done.epoch == self._phase.first:
                    self._show(inputs)
                late.add(self._step(inputs, batch))
            done.step += 1
            self._progress(f"epoch {done.epoch + 1}/{self._inputs.epochs}", done.step, steps)
            if done.step == begun + 1:
                late.read()
                started = told = meter.reading()
            every = self._config.figures_steps
            if every and done.step % every == 0 and done.step < steps:
                told = self._tell(meter, told)
            if done.step < steps:
                stops = any_host(self._strategy, self._stop())
                if stops or (self._config.checkpoint_steps and done.step % self._config.checkpoint_steps == 0):
                    late.read()
                    self._save()
                if stops:
                    raise self._interrupted()
        late.read()
        whole = meter.figures(started)
        self._tell(meter, told)
        some = max(1, steps // 5)
        loss, hits, images = np.sum(done.sums, axis=0).tolist()
        return {
            "steps": steps,
            "image_size": "x".join(map(str, training.config.image_size)),
            "loss": loss / images,
            "accuracy": hits / images,
            "loss_first_fifth": _mean_loss(done.sums[:some]),
            "loss_last_fifth": _mean_loss(done.sums[-some:]),
            "learning_rate": self._step.optimizer.learning_rate,
            "images_per_second": whole["images_per_second"],
            "input_wait": whole["input_wait"],
            "padding_waste": training.plan.padding_waste(done.epoch),
            "bad_records": len(training.bad_records),
            "peak_memory_mib": round(peak_memory() / (1 << 20), 1),
            **{name: whole[name] for name in ("cache_filled", "made_here") if whole[name] is not None},
        }

    def _tell(self, meter: Meter, since: Reading) -> Reading:
        """Has the journal write what the input cost since then; returns the reading that comes next."""
        if self._journal is not None:
            before = sum(row["steps"] for row in self._done.history)
            self._journal.figures(meter.figures(since), before + self._done.step)
        return meter.reading()

    def _validating(self, done: int, total: int) -> None:
        self._progress("validation", done, total)

    def _show(self, inputs: Any) -> None:
        """The pictures that a phase begins with, as the network sees them, of this host's first replica."""
        if self._journal is not None:
            images = inputs[0] if self._config.fit == NATIVE else inputs
            first = self._strategy.experimental_local_results(images)[0].numpy()
            self._journal.images(
                f"{self._phase.name} epoch {self._phase.first + 1}",
                first,
                sum(row["steps"] for row in self._done.history),
            )

    def _save(self) -> None:
        done = self._done
        if self._journal is not None:
            state = done.state(self._config, self._inputs.training(done.epoch))
            self._checkpoints.save(f"{done.epoch:04d}-{done.step:07d}", self._step.variables, state)

    def _stops_early(self) -> bool:
        losses = [row["validation_loss"] for row in self._done.history if "validation_loss" in row]
        return stops_early(losses, self._config.patience)

    def _interrupted(self) -> InterruptedRunError:
        done = self._done
        where = f"after step {done.step} of epoch {done.epoch + 1}" if done.step else f"after epoch {done.epoch}"
        return InterruptedRunError(f"stopped {where}; --resume goes on from there")


class _Late:
    """Collects the sums of steps. Reading them waits for their step: that is done once the next one is under way."""

    def __init__(self, into: list[list[float]]):
        self._into = into
        self._pending: tf.Tensor | None = None

    def add(self, sums: tf.Tensor) -> None:
        """Takes those of a step that was just begun, and reads those of the step before."""
        self.read()
        self._pending = sums

    def read(self) -> None:
        """Waits for the last step."""
        if self._pending is not None:
            self._into.append(self._pending.numpy().tolist())
            self._pending = None


def _mean_loss(sums: list[list[float]]) -> float:
    loss, _, images = np.sum(sums, axis=0).tolist()
    return float(loss / images)
