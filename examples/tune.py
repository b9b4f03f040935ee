"""Search the fields of a recipe with Optuna, and compare what it finds with tlkit's own tournament.

    pip install optuna
    python examples/tune.py DATA [TRIALS] [BACKBONE]

Each trial trains on the training images and is judged by the log loss of the validation images, which therefore say too
much of the best trial: both ways are compared on test images, which nothing was chosen on. Cached features and pixels
are shared by all trials. Without DATA: scikit-learn's digits.
"""

import sys
import tempfile
from pathlib import Path

import optuna

import tlkit


def recipe_of(trial: optuna.Trial) -> tlkit.Recipe:
    """A head, then the top blocks, with the fields that the trial suggests."""
    tuned = tlkit.Stage(
        epochs=trial.suggest_int("epochs", 3, 12),
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        unfreeze=trial.suggest_int("unfreeze", 1, 3),
        schedule="cosine",
        optimizer="adamw",
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 0.1, log=True),
        mixup=trial.suggest_categorical("mixup", [0.0, 0.2]),
    )
    head = tlkit.Head(dropout=trial.suggest_float("dropout", 0.0, 0.5))
    return tlkit.Recipe(f"trial_{trial.number}", stages=(tlkit.Stage(2, 1e-3), tuned), head=head)


def main(data: Path, trials: int, backbone: str) -> dict[str, float]:
    """Returns the test accuracy of both ways."""
    with tempfile.TemporaryDirectory() as scratch:

        def run(name: str, recipe: tlkit.Recipe | str) -> tlkit.Run:
            given = {"backbone": backbone, "image_size": 64, "test": 0.2, "report": False}
            return tlkit.finetune(data, recipe=recipe, out=Path(scratch) / name, **given)

        def objective(trial: optuna.Trial) -> float:
            done = run(f"trial-{trial.number}", recipe_of(trial))
            trial.set_user_attr("test", done.metrics["test"]["accuracy"])
            return done.metrics["validation"]["log_loss"]

        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        study.optimize(objective, n_trials=trials)
        baseline = run("tournament", "auto")
        count = baseline.metrics["test"]["n"]
        found = {"optuna": study.best_trial.user_attrs["test"], "tournament": baseline.metrics["test"]["accuracy"]}
        print(f"best of {trials} trials: {study.best_params}")
        print(f"test accuracy (n = {count}): Optuna {found['optuna']:.3f}, the tournament {found['tournament']:.3f}")
        return found


if __name__ == "__main__":
    words = sys.argv[1:]
    folder = Path(words[0]) if words else Path(tlkit.write_digits("digits", per_class=30))
    main(folder, int(words[1]) if len(words) > 1 else 10, words[2] if len(words) > 2 else "nano")
