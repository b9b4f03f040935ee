"""Goes on with a training that was stopped, step for step as if it had not been. Imports Keras and NumPy only.

A training depends on the weights, the optimizer's variables, the states of random layers, the running metrics, what the
callbacks remember, and the number of the epoch and of the step. These are the checkpoint. The order, the views, the
augmentation and the mixing are functions of the seed, the epoch and the step (`tlkit.training.batches`), and what is
made before the first step of a stage is made again, from the same seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from tlkit.checkpoints import Checkpoint, Checkpoints
from tlkit.models.batch_norm import _inner_batch_norms
from tlkit.plan.recipe import Recipe, to_dict
from tlkit.progress import log
from tlkit.stopping import STOPPING
from tlkit.training.batches import Batches
from tlkit.training.history import History, Stopwatch
from tlkit.training.own_callbacks import Callbacks

NOT_TRAINED_BY = ("name", "prior_shift")  # fields of a recipe that say nothing about its training
MEASURED = ("seconds", "at_seconds")  # columns of a history that differ from one run to the next


@runtime_checkable
class Stateful(Protocol):
    """A callback that remembers something from one epoch to the next, which a resumed training must have."""

    def state(self) -> dict[str, Any]:
        """What it remembers, as a tree of JSON values and NumPy arrays."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Remember it again. Called after `on_train_begin`."""


class Resumable(keras.callbacks.Callback):
    """Lets a training of `tlkit.train` that was stopped go on at the step where it was, when it is given again.

    It ends with the same weights and the same history, but for its seconds, as if it had not been stopped. One that was
    finished is not repeated. Keras' BackupAndRestore goes on with the next epoch, with other random states.

    Args:
        checkpoint: where it is kept how far the training is, such as `Checkpoints(Path("backup")).of("training")`. One
            of another training is ignored.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint


def resumable(checkpoints: Checkpoints | None, name: str) -> tuple[Resumable, ...]:
    """The callback for one training of a run; none without checkpoints."""
    return () if checkpoints is None else (Resumable(checkpoints.of(name)),)


def of_restart(callbacks: Sequence[keras.callbacks.Callback], number: int) -> list[keras.callbacks.Callback]:
    """Callbacks for a restart of a training, with a checkpoint of its own."""
    return [
        Resumable(one.checkpoint.beside(f"restart {number}")) if isinstance(one, Resumable) else one
        for one in callbacks
    ]


def without_resumable(callbacks: Callbacks) -> tuple[Callbacks, Checkpoint | None]:
    """The callbacks of a training without a `Resumable`, and the checkpoint that it has."""
    found = [one.checkpoint for one in callbacks if isinstance(one, Resumable)]
    return tuple(one for one in callbacks if not isinstance(one, Resumable)), found[-1] if found else None


def fingerprint(recipe: Recipe, seed: int, *counts: int) -> str:
    """What a training follows from, so that a checkpoint of another one is not taken for it."""
    fields = {name: value for name, value in to_dict(recipe).items() if name not in NOT_TRAINED_BY}
    return hashlib.sha256(json.dumps([fields, seed, *counts], sort_keys=True, default=str).encode()).hexdigest()


class Progress:
    """How far the training of a model is, for its checkpoints.

    Args:
        checkpoint: where it is kept.
        model: the classifier, untrained.
        fingerprint: of the training.

    Attributes:
        stage: the number of the stage that is next or under way, from 1.
        within: what the checkpoint holds of that stage; None if it has not begun, or if none of it is left.
    """

    def __init__(self, checkpoint: Checkpoint, model: keras.Model, fingerprint: str) -> None:
        self._checkpoint, self._model, self._fingerprint = checkpoint, model, fingerprint
        self._initial = model.get_weights()
        self.stage, self.finished = 1, False
        self.within: dict[str, Any] | None = None
        self._before: dict[str, Any] = {}
        self._saved_at = 0.0  # seconds since the training began

    def read(self, history: History) -> Stopwatch:
        """Set the model and the history to the newest checkpoint, if there is one. Returns the training's stopwatch."""
        found = self._checkpoint.read()
        if found is None or found["fingerprint"] != self._fingerprint:
            return Stopwatch()
        self._before = {name: found[name] for name in ("weights", "momenta", "history")}
        self._saved_at = found["seconds"]
        self.stage, self.finished, self.within = found["stage"], found["finished"], found["within"]
        weights = list(self._initial)
        for number, value in found["weights"].items():
            weights[int(number)] = value
        self._model.set_weights(weights)
        for layer, momentum in zip(_inner_batch_norms(self._model), found["momenta"], strict=True):
            layer.momentum = momentum
        for name, value in found["history"].items():
            setattr(history, name, value)
        if self.within is not None:
            log.info(f"  resumed  stage {self.stage}, epoch {self.within['epoch'] + 1}, step {self.within['step']}")
        elif self.finished:
            log.info("  this training was finished before the run was stopped")
        return Stopwatch(time.monotonic() - found["seconds"])

    def begin(self, history: History, batch_size: int) -> None:
        """Begin the next stage, or go on with it: the history of the stage is set to that of the checkpoint.

        A checkpoint with another batch size is given up: memory did not suffice for it.
        """
        if self.within is not None and self.within["batch_size"] != batch_size:
            self.within = None
        for name, value in (self.within["history"] if self.within else {}).items():
            setattr(history, name, value)

    def stage_ended(self, history: History, clock: Stopwatch, *, last: bool) -> None:
        """Write that a stage has ended. history: of all stages so far."""
        changed = {
            str(number): value
            for number, (value, before) in enumerate(zip(self._model.get_weights(), self._initial, strict=True))
            if not np.array_equal(value, before, equal_nan=True)
        }
        momenta = [float(layer.momentum) for layer in _inner_batch_norms(self._model)]
        self._before = {"weights": changed, "momenta": momenta, "history": _plain(history)}
        self.stage, self.finished, self.within = self.stage + 1, last, None
        self._save(clock, None)

    def within_stage(self, state: dict[str, Any], clock: Stopwatch) -> None:
        """Write how far the stage is that is under way."""
        if not self._before:
            momenta = [float(layer.momentum) for layer in _inner_batch_norms(self._model)]
            self._before = {"weights": {}, "momenta": momenta, "history": _plain(History())}
        self._save(clock, state)

    def due(self, clock: Stopwatch, *, epoch_ended: bool) -> bool:
        """Whether it is time for the next checkpoint."""
        since = clock.seconds - self._saved_at
        return self._checkpoint.due or (epoch_ended and self._checkpoint.due_after(since))

    def _save(self, clock: Stopwatch, within: dict[str, Any] | None) -> None:
        about = {"fingerprint": self._fingerprint, "stage": self.stage, "finished": self.finished}
        self._saved_at = clock.seconds
        self._checkpoint.save({**about, **self._before, "seconds": self._saved_at, "within": within})


def _plain(history: History) -> dict[str, Any]:
    """The fields of a history but `earlier`, which is that of stages before."""
    return {one.name: getattr(history, one.name) for one in dataclasses.fields(history) if one.name != "earlier"}


@dataclass
class WithinStage:
    """The place of a stage's checkpoints: what `Checkpointing` needs beside the callbacks.

    progress: of the whole training. history: of this stage. clock: of the whole training. batch_size: in use.
    """

    progress: Progress
    history: History
    clock: Stopwatch
    batch_size: int


class Checkpointing(keras.callbacks.Callback):
    """Writes checkpoints between two steps of a stage, and goes on from one.

    It must be the last callback in the list: it sets what the others have reset in `on_train_begin`, and it stops the
    training when the process was asked to end (see `tlkit.stopping`).

    Args:
        place: of the checkpoints; None: none are written, and only the latter is done.
        batches: the training batches.
        callbacks: the other callbacks of the stage.
    """

    def __init__(self, place: WithinStage | None, batches: Batches, callbacks: list[Any]) -> None:
        super().__init__()
        self._place, self._batches = place, batches
        self._stateful = [one for one in callbacks if isinstance(one, Stateful)]
        self._plateaus = [one for one in callbacks if isinstance(one, keras.callbacks.ReduceLROnPlateau)]
        self._averages = [one for one in callbacks if isinstance(one, keras.callbacks.SwapEMAWeights)]
        self._resumed = None if place is None else place.progress.within
        self._carried: dict[str, Any] | None = None
        self._epoch, self._before, self._step = 0, 0, 0

    def fit(self, fit: Callable[[int, int], Any], first: int, last: int) -> None:
        """Call fit(first, last), from the first epoch to before the last one; twice if it goes on within an epoch.

        Keras reads the number of batches once, so the rest of an epoch is a call of its own. What the callbacks, the
        optimizer and the weights are after it is carried over to the second call.
        """
        step = self._resumed["step"] if self._resumed else 0
        if step:
            self._batches.skip(step)
            fit(first, last)
            self._batches.skip(0)
            first += 1
        if not step or self._carried is not None:
            fit(first, last)

    def on_train_begin(self, logs: Any = None) -> None:
        if self._carried is not None:
            self._restore(self._carried)
            self._carried = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._before = epoch, 0
        if self._resumed is not None:
            self._before = self._resumed["step"]
            self._restore(self._resumed)
            self._resumed = None
            self._step = self._before
            return
        self._step = 0
        begun = self._place is not None and len(self._place.history.rows) > 0
        if self._place is not None and begun and self._place.progress.due(self._place.clock, epoch_ended=True):
            self._save()
        self._end_if_asked(begun)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._before and not self.model.stop_training and epoch + 1 < self.params["epochs"]:
            self._step = 0
            self._carried = self._state()
            self.model.stop_training = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step = self._before + batch + 1
        if self._step >= len(self._batches) or self.model.stop_training:
            return
        alone = self.model.steps_per_execution == 1
        if self._place is not None and alone and self._place.progress.due(self._place.clock, epoch_ended=False):
            self._save()
        self._end_if_asked(alone)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._end_if_asked(False, ctrl_c=False)

    def _end_if_asked(self, save: bool, *, ctrl_c: bool = True) -> None:
        """End the training if the process was asked to end. save: whether a checkpoint is written before."""
        if STOPPING.asked is None or (STOPPING.asked is KeyboardInterrupt and not ctrl_c):
            return
        if save and self._place is not None:
            self._save()
        STOPPING.end()

    def _save(self) -> None:
        assert self._place is not None
        self._place.progress.within_stage(self._state(), self._place.clock)

    def _state(self) -> dict[str, Any]:
        assert self._place is not None
        return {
            "epoch": self._epoch,
            "step": self._step,
            "batch_size": self._place.batch_size,
            "history": _plain(self._place.history),
            "model": _values(_without_metrics(self.model)),
            "optimizer": _values(self.model.optimizer.variables),
            "metrics": _values(self.model.metrics_variables) if self._step else [],
            "callbacks": {type(one).__name__: one.state() for one in self._stateful},
            "plateaus": [{name: getattr(one, name) for name in _PLATEAU} for one in self._plateaus],
            "averages": [{name: getattr(one, name) for name in _AVERAGES} for one in self._averages],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if state["step"]:
            self.model.test_on_batch(*self._batches[0])  # makes the variables of the metrics
        _assign(_without_metrics(self.model), state["model"])
        _assign(self.model.optimizer.variables, state["optimizer"])
        _assign(self.model.metrics_variables if state["step"] else [], state["metrics"])
        for callback in self._stateful:
            if type(callback).__name__ in state["callbacks"]:  # a user's may be new
                callback.set_state(state["callbacks"][type(callback).__name__])
        kinds = ((self._plateaus, state["plateaus"]), (self._averages, state["averages"]))
        for callbacks, states in kinds:
            for callback, values in zip(callbacks, states, strict=True):
                for name, value in values.items():
                    setattr(callback, name, value)


# what Keras' own callbacks remember
_PLATEAU = ("best", "wait", "cooldown_counter")
_AVERAGES = ("_ema_weights_in_model",)


def _without_metrics(model: keras.Model) -> list[Any]:
    """The variables of a model but those of its metrics: weights, and the states of random layers."""
    metrics = {id(one) for one in model.metrics_variables}
    every = {id(one): one for one in (*model.trainable_variables, *model.non_trainable_variables)}
    return [one for key, one in every.items() if key not in metrics]


def _values(variables: Sequence[Any]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(one) for one in variables]


def _assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
