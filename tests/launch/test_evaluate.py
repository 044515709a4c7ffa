"""The evaluation of runs as its users start it."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from launch.asked import asked
from launch.evaluate import EvaluateKeys, main
from launch.outputs import config_of_evaluation
from recipe.errors import ConfigError, DataError
from tests.conftest import ROOT, exhaustive_but
from tests.launch.conftest import refused
from tests.launch.pages import console_lines
from tests.record.runs import finished

SHORT = [
    *("data=synthetic", "data.train_examples=256", "data.test_examples=70"),
    *("train.global_batch_size=32", "train.steps=24", "checkpoint.every_steps=8"),
    *("optim.peak_lr=0.02", "schedule=constant", "checkpoint.keep=3"),
]
MODELS = {
    "cnn": ["model=cnn", "task.image_shape=[16,16,1]"],
    "resnet9": ["model=resnet9", "task.image_shape=[8,8,3]", "model.width=0.0625"],
    "vit_tiny": [
        *("model=vit_tiny", "task.image_shape=[8,8,3]", "model.width=0.125"),
        "model.blocks=2",
    ],
}
BOUNDS = {"fp32": 1e-5, "fp64": 1e-12}  # of a probability
PAGE = (ROOT / "docs" / "evaluate.md").read_text()
COMMANDS = [line.partition("  #")[0].strip() for line in console_lines(PAGE)]


@pytest.fixture(scope="module")
def run_of(train, tmp_path_factory):
    """`run_of("cnn", "fp32", "torch")`: a copy of a run, to be evaluated."""
    copies = {}

    def run_of(model, precision, framework):
        key = model, precision, framework
        if key not in copies:
            run = train(framework, *SHORT, *MODELS[model], f"precision={precision}")
            place = tmp_path_factory.mktemp("evaluated") / "run"
            copies[key] = shutil.copytree(run, place)
        return copies[key]

    return run_of


@pytest.fixture(scope="module")
def evaluated(run_quickly):
    """`evaluated(run, "jax", "devices=2")`: the evaluation, and its predictions."""

    def evaluated(run, framework, *keys):
        given = f"run={run}", f"framework={framework}", *keys
        done = run_quickly(["launch/evaluate.py", *given])
        assert done.returncode == 0, done.stdout + done.stderr
        page = Path(done.stdout.splitlines()[-1].removeprefix("page: "))
        with np.load(page.with_name("predictions.npz")) as file:
            predictions = dict(file)
        return json.loads(page.with_name("evaluation.json").read_text()), predictions

    return evaluated


@pytest.mark.parametrize(
    ("model", "precision"),
    exhaustive_but([("cnn", "fp32")], [(m, p) for m in MODELS for p in BOUNDS]),
)
def test_both_frameworks_predict_the_same_whoever_trained_the_run(
    model, precision, framework, run_of, evaluated
):
    run = run_of(model, precision, framework)
    (told, in_torch), (_, in_jax) = (evaluated(run, by) for by in ("torch", "jax"))
    np.testing.assert_array_equal(in_torch["predictions"], in_jax["predictions"])
    apart = np.abs(in_torch["probabilities"] - in_jax["probabilities"]).max()
    assert 0 < apart <= BOUNDS[precision]
    assert len(set(in_torch["predictions"].tolist())) > 3  # it has learned something
    assert told["trained_by"] == framework
    assert told["accuracy"] == told["recorded"]["accuracy"]
    assert told["loss"] == pytest.approx(told["recorded"]["loss"], rel=1e-5)


def test_a_checkpoint_is_evaluated_and_its_weights_differ(framework, run_of, evaluated):
    run = run_of("cnn", "fp32", framework)
    told, early = evaluated(run, framework, "checkpoint=8")
    assert (told["weights"], told["step"]) == ("step-00000008", 8)
    assert told["recorded"]["accuracy"] == told["accuracy"]
    _, final = evaluated(run, framework)
    assert np.abs(early["probabilities"] - final["probabilities"]).max() > 1e-3


def test_two_devices_predict_what_one_does(framework, run_of, evaluated):
    run = run_of("cnn", "fp32", framework)
    (_, one), (told, two) = (evaluated(run, framework, f"devices={n}") for n in (1, 2))
    assert told["devices"] == 2
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, atol=1e-6)


def test_a_regression_has_its_loss_alone(framework, train, evaluated, tmp_path):
    line = "experiment=linear_line", "train.steps=20"
    run = shutil.copytree(train(framework, *line), tmp_path / "run")
    told, found = evaluated(run, framework)
    assert told["loss"] == pytest.approx(told["recorded"]["loss"], rel=1e-5)
    assert told["accuracy"] is None and found.keys() == {"labels", "predictions"}


@pytest.mark.parametrize("command", exhaustive_but(COMMANDS[1:2], COMMANDS))
def test_a_command_of_the_page_runs(command, run_of, run_quickly, tmp_path):
    run = shutil.copytree(run_of("cnn", "fp32", "torch"), tmp_path / "run")
    if "run.dir=" in command:
        run, command = tmp_path / "new", f"{command} train.steps=3"
    _, *words = shlex.split(command.replace("runs/torch", str(run)))
    done = run_quickly(words)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_framework_refuses_is_one_error_and_leaves_nothing(
    framework, run_of, run_quickly
):
    run = run_of("cnn", "fp32", framework)
    before = sorted(run.rglob("*"))
    given = f"run={run}", f"framework={framework}", "platform=gpu"
    done = run_quickly(["launch/evaluate.py", *given])
    refused(done, "gpu")
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ([], "give run="),
        (["run=RUN", "framework=tf"], "framework=tf is unknown; one of: torch, jax"),
        (["run=RUN", "steps=3"], "steps=3: keys are run=, framework=,"),
        (["RUN"], "keys are run="),
        (["run=RUN", "devices=0"], "devices must be at least 1, got 0"),
        (["run=RUN", "precision=int8"], "precision=int8 is unknown"),
        (["run=RUN/absent"], "absent is not a folder; give the run folder"),
        (["run=RUN", "checkpoint=7"], "checkpoint=7 is not in .*none was saved"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(typed, told, tmp_path):
    finished(tmp_path / "run")
    with pytest.raises(Exception, match=told) as refusal:
        main([word.replace("RUN", str(tmp_path / "run")) for word in typed])
    assert refusal.value.exit_status == 2
    assert not (tmp_path / "run" / "evaluations").exists()


def test_data_that_are_not_there_are_named(tmp_path):
    finished(tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    absent = f"name: custom\n  files: {tmp_path / 'absent'}"
    text = config.read_text().replace("  files: null\n", "")
    config.write_text(text.replace("name: digits", absent))
    with pytest.raises((ConfigError, DataError), match="absent"):
        main([f"run={tmp_path / 'run'}"])


def test_only_what_training_needs_is_left_out_of_the_runs_config(config):
    trained = config(
        *("experiment=digits_cnn", "parallel=fsdp", "train.grad_accum_steps=2"),
        *("model.weights=absent.npz", "model.head=new", "tracking=tensorboard"),
    )
    given = asked(["run=absent", "devices=3", "data.root=place"], EvaluateKeys, "")
    found = config_of_evaluation(trained, devices=given.devices, root=given.root)
    assert (found.parallel.name, found.devices) == ("dp", 3)
    assert found.model.weights is found.model.head is None
    assert found.train.global_batch_size == 66  # 64 do not divide over three
    assert Path(found.data.root) == Path("place").absolute()
