"""Evaluate a trained run in either framework, whichever trained it.

    python launch/evaluate.py run=DIR
    python launch/evaluate.py run=DIR framework=jax checkpoint=best devices=2

run         a run folder
framework   torch or jax; by default the one that trained it
checkpoint  last, best or a step; by default the final weights. Where the run has an
            average of its weights, that is evaluated
devices     how many evaluate it together (1)
platform    auto, cpu or gpu (auto)
precision   to compute in; by default the run's
data.root   where its dataset is; by default the run's

Writes evaluation.json, index.html and predictions.npz to a new folder,
DIR/evaluations/<framework>-<weights>.
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

from dataclasses import dataclass
from pathlib import Path

from data.dataset import Dataset, acquire, load
from launch.cli import end_by_exception, plain_main, this_process
from launch.outputs import config_of_evaluation, outputs_of
from recipe.config import Config
from recipe.errors import ConfigError
from recipe.fields import expanded, one_of
from recipe.study import FRAMEWORKS
from recipe.training import PRECISIONS
from record.trained import read_trained
from report.analysis.evaluation import Evaluation, Scores, score
from report.evaluation import PAGE, write_evaluation

KEYS = (
    *("run", "framework", "checkpoint", "devices", "platform", "precision"),
    "data.root",
)
PLATFORMS = ("auto", "cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line; None where the run decides."""

    run: Path
    framework: str | None
    checkpoint: str | None
    devices: int
    platform: str
    precision: str | None
    root: str | None


def asked(typed: list[str]) -> Asked:
    """The command line, checked.

    Raises:
      ConfigError: naming the key, what it was given, and what is allowed.
    """
    given = {}
    for argument in typed:
        key, equals, value = argument.partition("=")
        if not (equals and value) or key not in KEYS:
            raise ConfigError(
                f"{argument} is not one of the keys, which are {'=, '.join(KEYS)}=; "
                "--help explains them"
            )
        given[key] = value
    if "run" not in given:
        raise ConfigError("run= is missing: give a run folder, as in run=runs/torch")
    devices = given.get("devices", "1")
    if not (devices.isascii() and devices.isdigit() and int(devices) > 0):
        raise ConfigError(f"devices={devices} is not a whole number of at least 1")
    allowed = {"framework": FRAMEWORKS, "platform": PLATFORMS, "precision": PRECISIONS}
    for key, options in allowed.items():
        if key in given:
            one_of(key, given[key], options)
    root = given.get("data.root")
    return Asked(
        run=Path(expanded("run", given["run"])),
        framework=given.get("framework"),
        checkpoint=given.get("checkpoint"),
        devices=int(devices),
        platform=given.get("platform", "auto"),
        precision=given.get("precision"),
        root=None if root is None else expanded("data.root", root),
    )


def main(typed: list[str]) -> None:
    """Read, compute, write, and print the scores.

    Raises:
      DuetError: with what is wrong, in one line.
    """
    if {"--help", "-h"} & {*typed}:
        print(__doc__)
        return
    if this_process().launcher != "python":
        raise ConfigError(
            "evaluate starts its own processes; run it as python launch/evaluate.py, "
            "without torchrun or srun"
        )
    given = asked(typed)
    trained = read_trained(given.run, given.checkpoint)
    config = config_of_evaluation(
        trained.config,
        devices=given.devices,
        platform=given.platform,
        precision=given.precision,
        root=given.root,
    )
    framework = given.framework or trained.framework
    dataset = _dataset(config)
    outputs = outputs_of(framework, config, trained.weights)
    evaluation = Evaluation(
        trained=trained,
        framework=framework,
        devices=given.devices,
        precision=config.precision.name,
        data_fingerprint=dataset.fingerprint,
        scores=score(dataset.test_labels, outputs, config.data.classes),
    )
    folder = write_evaluation(
        evaluation,
        dataset.test_images,
        dataset.test_labels,
        outputs,
        ["launch/evaluate.py", *typed],
    )
    for note in evaluation.notes:
        print(note)
    print(
        f"{trained.config.name}, {trained.name} weights, trained by "
        f"{trained.framework}, evaluated by {framework}:"
    )
    print(_in_a_line(evaluation.scores))
    print(f"page: {folder / PAGE}")


def _dataset(config: Config) -> Dataset:
    acquire(config.data)
    return load(config.data)


def _in_a_line(scores: Scores) -> str:
    shown = {"loss": scores.loss, "accuracy": scores.accuracy, "ECE": scores.ece}
    shown |= {"precision": scores.precision, "recall": scores.recall, "F1": scores.f1}
    return "  ".join(f"{k} {v:.4f}" for k, v in shown.items() if v is not None)


if __name__ == "__main__":
    end_by_exception()
    plain_main(main)
