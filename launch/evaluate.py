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
data.files  where the files of data=custom or data=folder are; by default the run's

Writes evaluation.json, index.html and predictions.npz to a new folder,
DIR/evaluations/<framework>-<weights>.
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

from dataclasses import dataclass, field
from pathlib import Path

from data.dataset import Dataset, acquire, load
from launch.asked import asked
from launch.cli import end_by_exception, plain_main, this_process
from launch.outputs import config_of_evaluation, outputs_of
from recipe.config import Config
from recipe.errors import ConfigError
from recipe.fields import at_least, expanded, one_of
from recipe.study import FRAMEWORKS
from recipe.training import PRECISIONS
from record.trained import read_trained
from report.analysis.evaluation import Evaluation, Scores, score
from report.evaluation import PAGE, write_evaluation

PLATFORMS = ("auto", "cpu", "gpu")


@dataclass(kw_only=True)
class EvaluateKeys:
    """What to evaluate, and how; None where the run decides."""

    run: str
    framework: str | None = None
    checkpoint: str | None = None
    devices: int = 1
    platform: str = "auto"
    precision: str | None = None
    root: str | None = field(default=None, metadata={"key": "data.root"})
    files: str | None = field(default=None, metadata={"key": "data.files"})

    def __post_init__(self) -> None:
        at_least("devices", self.devices, 1)
        one_of("platform", self.platform, PLATFORMS)
        if self.framework is not None:
            one_of("framework", self.framework, FRAMEWORKS)
        if self.precision is not None:
            one_of("precision", self.precision, PRECISIONS)
        self.run = expanded("run", self.run)
        if self.root is not None:
            self.root = expanded("data.root", self.root)


def main(typed: list[str]) -> None:
    """Read, compute, write, and print the scores.

    Raises:
      DuetError: with what is wrong, in one line.
    """
    assert __doc__
    given = asked(typed, EvaluateKeys, __doc__)
    if this_process().launcher != "python":
        raise ConfigError(
            "evaluate starts its own processes; run it as python launch/evaluate.py, "
            "without torchrun or srun"
        )
    trained = read_trained(Path(given.run), given.checkpoint)
    config = config_of_evaluation(
        trained.config,
        devices=given.devices,
        platform=given.platform,
        precision=given.precision,
        root=given.root,
        files=given.files,
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
