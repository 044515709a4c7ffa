"""The parity check as its users start it."""

import json
import shutil
import struct
import subprocess
import time

import pytest

from record.run import read_run
from tests.conftest import NO_GPU, clean_environment, exhaustive_but

PARITY = "launch/parity.py"


def test_fp64_proves_both_frameworks_identical_at_world_sizes_one_and_two(
    run_quickly, tmp_path
):
    done = run_quickly(
        [
            *(PARITY, "experiment=digits_mlp", "world_sizes=[1,2]", "precision=fp64"),
            *("train.steps=40", f"run.dir={tmp_path / 'check'}"),
        ],
        COLUMNS="60",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: identical" in done.stdout
    assert "…" not in done.stdout  # figures are whole on any terminal
    verdict = json.loads((tmp_path / "check" / "parity.json").read_text())
    assert verdict["verdict"] == "identical"
    assert len(verdict["comparisons"]) == 6
    png = (tmp_path / "check" / "parity.png").read_bytes()
    assert png.startswith(b"\x89PNG") and struct.unpack(">I", png[16:20])[0] > 600
    page = (tmp_path / "check" / "index.html").read_text()
    assert "identical" in page and "http://" not in page and "https://" not in page


def test_replicas_are_compared_between_frameworks_and_not_between_world_sizes(
    run_quickly, tmp_path
):
    done = run_quickly(
        [
            *(PARITY, "experiment=digits_mlp", "world_sizes=[2]", "precision=fp64"),
            *("jax_layouts=[devices]", "train.steps=12", "parallel=diloco"),
            *("parallel.every=4", f"run.dir={tmp_path / 'check'}"),
        ]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads((tmp_path / "check" / "parity.json").read_text())
    compared = [(c["a"], c["b"], c["kind"]) for c in verdict["comparisons"]]
    assert compared == [
        ("jax ×1", "torch ×1", "frameworks"),
        ("jax ×2", "torch ×2", "frameworks"),
    ]
    two = read_run(tmp_path / "check" / "torch-2")
    assert two.config.parallel.outer.lr == 0.7  # of the preset that was typed
    assert [row["step"] for row in two.of_kind("round")] == [4, 8, 12]


def test_fp32_is_judged_by_controls_on_real_images(
    run_quickly, fashion_mnist, tmp_path
):
    done = run_quickly(
        [
            *(PARITY, "experiment=fashion_mlp", "world_sizes=[1]", "controls=1"),
            f"run.dir={tmp_path / 'check'}",
        ]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads((tmp_path / "check" / "parity.json").read_text())
    assert 0 < max(verdict["control_losses"]) < 1e-3
    assert len(verdict["control_losses"]) == 100


# NVIDIA's driver as a machine with two GPUs has it.
DRIVER = """
import pynvml

def refused(*_):
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

for name in ("Init", "Shutdown"):
    setattr(pynvml, f"nvml{name}", lambda: None)
pynvml.nvmlDeviceGetCount = lambda: 2
pynvml.nvmlDeviceGetHandleByIndex = lambda index: index
pynvml.nvmlDeviceGetUUID = lambda handle: f"GPU-{handle}"
pynvml.nvmlDeviceGetMaxMigDeviceCount = refused
"""


def test_before_pytorch_trains_on_a_gpu_jax_without_cuda_is_refused(
    run_python, tmp_path
):
    (tmp_path / "sitecustomize.py").write_text(DRIVER)
    folder = tmp_path / "check"
    done = run_python(
        [PARITY, "experiment=digits_mlp", "world_sizes=[1]", f"run.dir={folder}"],
        PYTHONPATH=tmp_path,
        CUDA_VISIBLE_DEVICES=None,
        JAX_PLATFORMS=None,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "platform=auto: JAX would train on the CPU" in done.stderr
    assert "EXTRAS=dev,cuda" in done.stderr and "platform=cpu" in done.stderr
    assert not folder.exists()


def test_a_training_that_fails_is_named_with_its_own_error(run_quickly, tmp_path):
    done = run_quickly(
        [
            *(PARITY, "experiment=mnist_mlp", f"data.root={tmp_path / 'data'}"),
            f"run.dir={tmp_path / 'check'}",
        ],
        http_proxy="http://127.0.0.1:9",
        https_proxy="http://127.0.0.1:9",
    )
    assert done.returncode == 2
    assert "torch ×1 failed" in done.stderr
    assert "train-images-idx3-ubyte" in done.stderr


def test_folders_are_the_users_whatever_their_names(
    run_quickly, root, fashion_mnist, tmp_path
):
    folder = tmp_path / "it's (a, b)"
    done = run_quickly(
        [
            *(root / PARITY, "experiment=fashion_mlp", "world_sizes=[1]"),
            *("precision=fp64", "train.steps=2", "data.root=mine"),
            "run.dir='" + str(folder).replace("'", "\\'") + "'",
        ],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "index.html").exists()
    assert (tmp_path / "mine" / "fashion_mnist").is_dir()


def test_parity_that_is_ended_ends_its_trainings(quick_python, root, tmp_path):
    command = [
        *(quick_python, root / PARITY, "experiment=digits_mlp", "world_sizes=[2]"),
        *("train.steps=1000000", f"run.dir={tmp_path / 'check'}"),
    ]
    parity = subprocess.Popen(
        command, cwd=root, env=clean_environment() | NO_GPU, stderr=subprocess.DEVNULL
    )
    rows = tmp_path / "check" / "torch-1" / "metrics.jsonl"
    while not rows.exists() or not rows.stat().st_size:
        assert parity.poll() is None
        time.sleep(0.2)
    parity.terminate()
    assert parity.wait(60) == 143
    size = rows.stat().st_size
    time.sleep(1)
    assert rows.stat().st_size == size


@pytest.mark.parametrize(
    "given", exhaustive_but([[]], [[], ["trace=1"]]), ids=["whole", "traced"]
)
def test_all_wrong_leaves_of_both_twins_are_reported_before_training(
    run_quickly, root, tmp_path, given
):
    mine = shutil.copytree(root / "tests" / "twins" / "planted", tmp_path / "mine")
    shapes, twin = mine / "shapes.py", mine / "jax_model.py"
    shapes.write_text(shapes.read_text().replace('"body.kernel"', '"trunk.kernel"'))
    twin.write_text(twin.read_text().replace("(width, norm", "(4, norm"))
    done = run_quickly(
        [
            *(PARITY, "experiment=digits_cnn", "model=custom", f"model.folder={mine}"),
            *("precision=fp64", f"run.dir={tmp_path / 'check'}", *given),
        ]
    )
    assert done.returncode == 2
    kernel = "(3, 3, 8, 8)"
    for told in (
        f"body.kernel is {kernel} in torch_model.py, {kernel} in jax_model.py, nothing",
        f"trunk.kernel is nothing in torch_model.py, nothing in jax_model.py, {kernel}",
        "norm.scale is (8,) in torch_model.py, (4,) in jax_model.py, (8,) in shapes.py",
    ):
        assert told in done.stderr
    assert "norm.bias is" in done.stderr
    assert not (tmp_path / "check").exists()


@pytest.fixture
def planted(root, tmp_path):
    """A copy of the project whose JAX twin can be made wrong."""
    copy = tmp_path / "copy"
    ignore = shutil.ignore_patterns(".git", ".venv*", "runs", "__pycache__", "tests")
    shutil.copytree(root, copy, ignore=ignore)
    return copy


# What is planted in the JAX twin: the file, its line, and what stands there instead.
WRONG = {
    "one step's examples out of order": (
        "train.py",
        "positions[position]",
        "positions[position + (step == 3)]",
        "differ from step 4 on",
    ),
    "half the learning rate": (
        "train.py",
        "rates = learning_rates(config, plan, steps)",
        "rates = [r / 2 for r in learning_rates(config, plan, steps)]",
        "differ from step 2 on",
    ),
}


@pytest.mark.parametrize(
    ("difference", "precision"),
    exhaustive_but(
        [("half the learning rate", "fp32")],
        [
            ("one step's examples out of order", "fp64"),
            ("half the learning rate", "fp32"),
        ],
    ),
)
def test_a_planted_difference_is_caught_and_its_step_named(
    run_quickly, planted, tmp_path, difference, precision
):
    file, right, wrong, words = WRONG[difference]
    source = (planted / "jax_impl" / file).read_text()
    assert source.count(right) == 1
    (planted / "jax_impl" / file).write_text(source.replace(right, wrong))
    done = run_quickly(
        [
            *(planted / PARITY, "experiment=digits_mlp", "world_sizes=[1]"),
            *(f"precision={precision}", "controls=1", "train.steps=10"),
            f"run.dir={tmp_path / 'check'}",
        ],
        cwd=planted,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "verdict: different" in done.stdout
    assert words in done.stdout
    assert "most at dense." in done.stdout
