"""Runs a user's callbacks in a training: they see the whole classifier, whatever part of it is being trained.

A stage trains the layers above the frozen ones on what these gave, so Keras' `fit` has a model without them. A user's
callback has the classifier as `self.model`, which shares its weights, with the optimizer of the stage: it can save it,
evaluate it on images, change the learning rate, and stop the stage by `self.model.stop_training = True`.

A head that is solved has no epochs, and neither has a fold of cross-validation for the callbacks, whose epochs would
mix with those of the others. `report_rows` tells of each as of a training of one epoch.

Imports Keras and NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tlkit.errors import SpecError
from tlkit.training.history import SCORES, History
from tlkit.words import counted

Callbacks = tuple[keras.callbacks.Callback, ...]


def checked_callbacks(callbacks: Sequence[Any] | Any) -> Callbacks:
    """Return callbacks as a tuple. Raises SpecError for anything that is no Keras callback."""
    found = (callbacks,) if isinstance(callbacks, keras.callbacks.Callback) else tuple(callbacks)
    for one in found:
        if not isinstance(one, keras.callbacks.Callback):
            raise SpecError(
                f"`callbacks` holds {one!r}. Expected instances of keras.callbacks.Callback, such as "
                "keras.callbacks.TensorBoard('logs')."
            )
    return found


def check_resumable(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Raise SpecError if a callback cannot take part in a run that is resumed.

    What a callback remembers is lost when a run is stopped. One that declares its state can take part: it has the
    methods `state()`, which returns JSON values and NumPy arrays, and `set_state(state)`, which is called after
    `on_train_begin`. One that remembers nothing returns {}.
    """
    without = [one for one in callbacks if not _declares(one)]
    if without:
        names = ", ".join(dict.fromkeys(type(one).__name__ for one in without))
        raise SpecError(
            f"{counted(len(without), 'callback')} of a run to be resumed {'does' if len(without) == 1 else 'do'} not "
            f"declare what {'it remembers' if len(without) == 1 else 'they remember'}: {names}. Expected the methods "
            "state() and set_state(state). Resume without `callbacks`, or begin the run again."
        )


def _declares(callback: keras.callbacks.Callback) -> bool:
    return hasattr(callback, "state") and hasattr(callback, "set_state")


class OwnCallbacks(keras.callbacks.Callback):
    """Passes every hook of a stage on to a user's callbacks, with the classifier as their model.

    Args:
        callbacks: the user's.
        classifier: the whole model.
        history: of the stage; a note says so if a callback ends it.
        stage: its number, for the note.
    """

    def __init__(self, callbacks: Callbacks, classifier: keras.Model, history: History, stage: int) -> None:
        super().__init__()
        self._classifier, self._history, self._stage = classifier, history, stage
        self._list = keras.callbacks.CallbackList(callbacks)

    def set_params(self, params: Any) -> None:
        super().set_params(params)
        self._list.set_params(params)

    def on_train_begin(self, logs: Any = None) -> None:
        self._classifier.optimizer, self._classifier.stop_training = self.model.optimizer, False
        self._list.set_model(self._classifier)
        self._list.on_train_begin(logs)
        self._stop_if_asked()

    def on_train_end(self, logs: Any = None) -> None:
        self._list.on_train_end(logs)
        if self._classifier is not self.model:
            del self._classifier.optimizer

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._list.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        already = self.model.stop_training
        self._list.on_epoch_end(epoch, logs)
        if self._stop_if_asked() and not already:
            self._history.note(f"stage {self._stage} ended after epoch {epoch + 1}: a callback stopped it")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._list.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._list.on_train_batch_end(batch, logs)
        self._stop_if_asked()

    def on_test_begin(self, logs: Any = None) -> None:
        self._list.on_test_begin(logs)

    def on_test_end(self, logs: Any = None) -> None:
        self._list.on_test_end(logs)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._list.on_test_batch_begin(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._list.on_test_batch_end(batch, logs)

    def state(self) -> dict[str, Any]:
        """What the callbacks remember that declare it, see `check_resumable`."""
        return {"states": [one.state() if _declares(one) else None for one in self._list.callbacks]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Let the callbacks remember it again, if they are as many."""
        if len(state["states"]) == len(self._list.callbacks):
            for one, found in zip(self._list.callbacks, state["states"], strict=True):
                if _declares(one) and found is not None:
                    one.set_state(found)

    def _stop_if_asked(self) -> bool:
        asked = bool(self._classifier.stop_training)
        if asked:
            self.model.stop_training = True
        return asked


def own_callbacks(
    callbacks: Callbacks, classifier: keras.Model, history: History, stage: int
) -> list[keras.callbacks.Callback]:
    """The callback of a stage that passes its hooks on to the user's; none if there are none."""
    return [OwnCallbacks(callbacks, classifier, history, stage)] if callbacks else []


def report_rows(callbacks: Callbacks, classifier: keras.Model, rows: Sequence[Mapping[str, Any]]) -> None:
    """Tell callbacks of what was trained without them, as of a training with these epochs: a solved head, a fold.

    rows: of `History.rows`. The scores of each are the logs, and its epoch, from 1, is the number of the epoch.
    """
    if not callbacks or not rows:
        return
    if not hasattr(classifier, "optimizer"):
        classifier.optimizer = None
    classifier.stop_training = False
    settings = {"epochs": int(rows[-1]["epoch"]), "steps": 1, "verbose": 0}
    told = keras.callbacks.CallbackList(callbacks, model=classifier, **settings)
    told.on_train_begin()
    logs: dict[str, float] = {}
    for row in rows:
        epoch, logs = int(row["epoch"]) - 1, {name: row[name] for name in SCORES}
        told.on_epoch_begin(epoch)
        told.on_epoch_end(epoch, dict(logs))
    told.on_train_end(logs)
    if classifier.optimizer is None:
        del classifier.optimizer
