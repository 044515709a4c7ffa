"""Which weights of a run are read to be evaluated, and what is refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from recipe.config import to_yaml
from recipe.errors import RecordError
from record.checkpoint import CheckpointWriter, checkpoint_folder
from record.run import FINAL
from record.trained import read_trained
from tests.record.checkpoints import TEST, cut
from tests.record.runs import (
    SCORES,
    WEIGHTS,
    contents,
    finished,
    interrupted,
    of_run,
    recipe,
)
from tests.report.folders import change

ACCURACIES = {2: 0.9, 4: 0.8}  # of the checkpoints at their own steps


@pytest.fixture
def run(tmp_path):
    finished(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def killed(tmp_path):
    """A run without final weights, and checkpoints of steps 2 and 4."""
    folder = interrupted(tmp_path / "killed")
    save(folder)
    return folder


def save(folder, **more):
    with CheckpointWriter(folder, keep=9) as writer:
        for step, accuracy in ACCURACIES.items():
            test = TEST | {"step": step, "accuracy": accuracy}
            arrays = {"weights": shifted(step), **more}
            writer.save(replace(of_run(folder, step), arrays=arrays, test=test))


def shifted(step):
    return {name: array + np.float32(step) for name, array in WEIGHTS.items()}


def assert_weights(found, expected):
    assert found.weights.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found.weights[name], array)


def test_by_default_the_final_weights_are_read_with_the_scores_recorded(run):
    found = read_trained(run)
    assert (found.name, found.step, found.framework) == ("final", 4, "jax")
    assert found.test == SCORES
    assert_weights(found, WEIGHTS)


@pytest.mark.parametrize(("asked", "step"), [("last", 4), ("best", 2), ("2", 2)])
def test_a_checkpoint_is_the_last_the_best_or_that_of_a_step(killed, asked, step):
    before = contents(killed)
    found = read_trained(killed, asked)
    assert (found.name, found.step) == (f"step-0000000{step}", step)
    assert found.test is not None and found.test["accuracy"] == ACCURACIES[step]
    assert_weights(found, shifted(step))
    assert contents(killed) == before


def test_an_average_is_read_where_the_run_evaluates_it(killed):
    config = recipe(killed)
    averaging = replace(config, optim=replace(config.optim, ema_decay=0.9))
    (killed / "config.yaml").write_text(to_yaml(averaging))
    save(killed, average=shifted(100))
    assert_weights(read_trained(killed, "last"), shifted(100))


def test_scores_of_another_step_are_not_the_checkpoints(killed):
    with CheckpointWriter(killed, keep=9) as writer:
        stale = replace(of_run(killed, 3), arrays={"weights": WEIGHTS}, test=TEST)
        writer.save(stale)
    assert read_trained(killed, "3").test is None


def test_a_damaged_newest_checkpoint_is_skipped_and_named(killed):
    cut(checkpoint_folder(killed, 4) / "weights.safetensors", 100)
    found = read_trained(killed, "last")
    assert found.step == 2 and "step-00000004" in found.skipped[0]


def without_marker(folder):
    (checkpoint_folder(folder, 4) / "COMMITTED").unlink()


def another_model(folder):
    config = recipe(folder)
    mlp = replace(config, model=replace(config.model, name="mlp", hidden=[8]))
    (folder / "config.yaml").write_text(to_yaml(mlp))


@pytest.mark.parametrize(
    ("harm", "asked", "told"),
    [
        (None, None, f"has no {FINAL}; checkpoint=last takes its newest checkpoint"),
        (None, "3", "checkpoint=3 is not in .*; saved steps: 2, 4"),
        (None, "newest", "give last, best or a step: saved steps: 2, 4"),
        (without_marker, "4", "step-00000004 has no COMMITTED"),
        (another_model, "4", r"do not fit mlp: dense.0.bias is \(10,\), needed \(8,\)"),
        (lambda folder: shutil.rmtree(folder / "checkpoints"), None, "nothing to eval"),
        (lambda folder: shutil.rmtree(folder / "checkpoints"), "last", "no valid"),
        (lambda folder: shutil.rmtree(folder / "checkpoints"), "best", "none was save"),
        (lambda folder: (folder / "config.yaml").unlink(), None, "is not a run folder"),
    ],
)
def test_what_cannot_be_read_is_refused_and_nothing_changed(killed, harm, asked, told):
    if harm is not None:
        harm(killed)
    before = contents(killed)
    with pytest.raises(RecordError, match=told):
        read_trained(killed, asked)
    assert contents(killed) == before


def test_final_weights_that_are_damaged_are_named(run):
    cut(run / FINAL, 100)
    with pytest.raises(RecordError, match=FINAL):
        read_trained(run)


def test_a_framework_that_there_is_not_is_refused(run):
    change(run / "environment.json", framework="tf")
    with pytest.raises(RecordError, match="framework is 'tf', expected one of torch"):
        read_trained(run)


def test_a_checkpoints_own_folder_is_answered_with_how_to_ask_for_it(killed):
    with pytest.raises(RecordError, match=r"give run=.*killed checkpoint=2"):
        read_trained(checkpoint_folder(killed, 2))
