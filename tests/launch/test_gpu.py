"""The main job on a GPU: `make gpu`."""

import json

import pytest

from record.run import read_run
from tests.launch.conftest import refused

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_both_frameworks_train_the_same_run_on_one_gpu(run_python, precision, tmp_path):
    done = run_python(
        [
            *("launch/parity.py", "experiment=digits_cnn", "world_sizes=[1]"),
            *(f"precision={precision}", "platform=gpu", f"run.dir={tmp_path / 'c'}"),
        ],
        gpu=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads((tmp_path / "c" / "parity.json").read_text())
    assert verdict["verdict"] == "identical"


def test_the_record_names_the_gpu_and_its_memory(run_python, script, tmp_path):
    arguments = ["platform=gpu", "train.steps=40", f"run.dir={tmp_path / 'run'}"]
    done = run_python([script, *arguments], gpu=True)
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "run")
    assert "NVIDIA" in run.environment["devices"][0]
    assert 47e4 < run.summary["peak_memory_bytes"] < 8e10


def test_more_gpus_than_there_are_is_refused(run_python, tmp_path):
    arguments = ["devices=64", "platform=gpu", f"run.dir={tmp_path / 'run'}"]
    refused(run_python(["launch/jax.py", *arguments], gpu=True), "JAX sees", "at most")
    assert not (tmp_path / "run").exists()
