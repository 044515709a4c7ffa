"""Real runs from the command line, on real data, in one process and several."""

import gzip
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from record.run import read_run
from record.schema import SUMMARY, check_fields
from report.parity.differences import (
    leaf_differences,
    losses,
    relative_difference,
)
from tests.conftest import exhaustive_but
from tests.launch.conftest import NORMED, SCRIPTS
from tests.record.wandb_history import read_history, wandb_file


@pytest.fixture(scope="session")
def tracked(framework, train):
    """Two processes, mirrored to an offline W&B, where a proxy answers no one."""
    return train(
        framework,
        *("experiment=digits_mlp", "tracking=wandb", "train.epochs=2"),
        processes=2,
        http_proxy="http://127.0.0.1:9",
        https_proxy="http://127.0.0.1:9",
    )


def test_two_processes_leave_one_run_folder_that_reads_back_whole(tracked, framework):
    run = read_run(tracked)
    assert run.summary["framework"] == framework
    assert (run.summary["processes"], run.summary["world_size"]) == (2, 2)
    set_here = run.environment["framework_settings"]
    assert set_here["collectives"] == "gloo" and set_here["deterministic"] is False
    assert [row["step"] for row in run.of_kind("step")] == list(range(1, 45))
    assert sorted(p.name for p in (tracked / "logs").iterdir()) == [
        "rank0.log",
        "rank1.log",
    ]


def test_summary_is_what_the_schema_says(tracked):
    summary = json.loads((tracked / "summary.json").read_text())
    check_fields(summary, SUMMARY, "summary.json")
    assert summary["status"] == "finished"
    assert summary["parameters"] == 50_890
    assert summary["startup_seconds"] > 0
    assert summary["peak_memory_bytes"] > 1e8


def test_every_test_example_counts_exactly_once_at_world_size_two(tracked):
    test = read_run(tracked).summary["test"]
    assert np.sum(test["confusion"]) == 359  # 1,797 // 5, no multiple of the batch


def test_wandb_history_read_back_from_its_file_equals_the_record(tracked):
    assert wandb_file(tracked).exists()  # and is the only one
    assert read_history(tracked) == read_run(tracked).rows


@pytest.mark.parametrize(
    ("framework", "processes"),
    exhaustive_but([("jax", 1)], [(f, n) for f in SCRIPTS for n in (1, 2)]),
)
def test_the_average_is_what_is_evaluated_and_what_lies_there_at_the_end(
    train, framework, processes
):
    short = [*NORMED, "precision=fp64", "train.steps=9", "parallel=fsdp"]
    folder = train(framework, *short, "optim.ema_decay=0.9", processes=processes)
    final, last = (load_file(folder / f"{n}.safetensors") for n in ("final", "last"))
    assert max(leaf_differences(final, last).values()) > 1e-3
    # A step that updates nothing, so that both files are evaluated as they are. It does
    # move running statistics, by a momentum that is next to nothing.
    still = [*short, "optim.update=false", "train.steps=1", "model.norm.momentum=1e-15"]
    tests = [
        read_run(train(framework, *still, f"model.weights={folder / file}")).summary
        for file in ("final.safetensors", "last.safetensors")
    ]
    losses_of = [run["test"]["loss"] for run in tests]
    evaluated = read_run(folder).summary["test"]["loss"]
    assert losses_of[0] == pytest.approx(evaluated, rel=1e-12)
    assert abs(losses_of[1] - evaluated) > 1e-6


def test_final_weights_load_without_a_framework(tracked):
    weights = load_file(tracked / "final.safetensors")
    assert weights["dense.0.kernel"].shape == (784, 64)


LAYOUTS = [
    {"overrides": ["devices=4"]},
    {"overrides": ["parallel=pmap"]},
    {"overrides": ["devices=2", "parallel=pmap"]},
    {"overrides": ["devices=4", "parallel=pmap"], "processes": 2},
    {"overrides": ["devices=4", "parallel=fsdp"], "processes": 2},
]


@pytest.mark.parametrize(
    "layout",
    exhaustive_but([LAYOUTS[0], LAYOUTS[3]], LAYOUTS),
    ids=[
        *("four devices", "pmap", "pmap of two", "pmap of two processes of two"),
        "fsdp of two processes of two",
    ],
)
def test_every_layout_of_jax_trains_the_same_run(train, layout):
    recipe = ["experiment=digits_mlp", "precision=fp64", "train.steps=10"]
    one = read_run(train("jax", *recipe))
    other = read_run(
        train(
            "jax", *recipe, *layout["overrides"], processes=layout.get("processes", 1)
        )
    )
    assert relative_difference(losses(one), losses(other)).max() <= 1e-12
    assert max(leaf_differences(one.weights, other.weights).values()) <= 1e-10


def test_a_window_of_many_steps_ends_on_several_devices_of_one_process(train):
    recipe = ["experiment=digits_cnn", "train.global_batch_size=8", "train.steps=128"]
    recipe += ["train.log_every_steps=128", "devices=2"]
    assert read_run(train("jax", *recipe, NPROC="2")).summary["steps"] == 128


SHARDED = ["experiment=digits_mlp", "precision=fp64", "train.steps=10"]
SHARDED += ["optim.clip_norm=1", "train.grad_accum_steps=2"]


@pytest.mark.quick_in("jax")
def test_sharded_parameters_train_the_same_run(framework, train):
    one = read_run(train(framework, *SHARDED))
    other = read_run(train(framework, *SHARDED, "parallel=fsdp", processes=2))
    assert relative_difference(losses(one), losses(other)).max() <= 1e-12
    assert max(leaf_differences(one.weights, other.weights).values()) <= 1e-10
    assert one.summary["test"]["loss"] == pytest.approx(
        other.summary["test"]["loss"], rel=1e-12
    )


SYNCED = [*NORMED, "precision=fp64", "train.steps=5"]


@pytest.mark.parametrize(
    ("framework", "overrides", "processes"),
    [
        ("torch", [], 2),
        ("jax", ["devices=4"], 1),
    ],
    ids=["torch", "jax"],
)
def test_batch_norm_is_over_the_global_batch_at_every_world_size(
    train, framework, overrides, processes
):
    one = read_run(train("torch", *SYNCED))
    other = read_run(train(framework, *SYNCED, *overrides, processes=processes))
    assert relative_difference(losses(one), losses(other)).max() <= 1e-12
    assert max(leaf_differences(one.weights, other.weights).values()) <= 1e-10
    assert other.summary["test"]["loss"] == pytest.approx(
        one.summary["test"]["loss"], rel=1e-12
    )


def test_local_batch_norm_is_over_each_devices_share_and_the_firsts_is_evaluated(train):
    local = [*SYNCED, "model.norm.sync=false"]
    one = read_run(train("torch", *local, processes=2))
    other = read_run(train("jax", *local, "devices=2"))
    assert relative_difference(losses(one), losses(other)).max() <= 1e-12
    assert max(leaf_differences(one.weights, other.weights).values()) <= 1e-10
    assert other.summary["test"]["loss"] == pytest.approx(
        one.summary["test"]["loss"], rel=1e-12
    )
    whole = read_run(train("torch", *SYNCED))
    assert relative_difference(losses(one), losses(whole)).max() > 1e-6


LOADED = """
import runpy, sys
script = sys.argv[1]
sys.argv = sys.argv[1:]
sys.path[0] = "launch"
runpy.run_path(script, run_name="__main__")
print("loaded:", sorted({"torch", "jax"} & sys.modules.keys()))
"""


SLOW = """
import time
from importlib import import_module
from tests.faults.inject import twin
train = import_module(f"{twin()}_impl.train")
rightly = train.synchronize
train.synchronize = lambda *state: (time.sleep(0.2), rightly(*state))
"""


def test_a_window_is_timed_until_its_device_has_done_it(
    framework, script, run_planted, tmp_path
):
    overrides = [
        "train.steps=4",
        "train.log_every_steps=2",
        f"run.dir={tmp_path / 'run'}",
    ]
    done = run_planted(SLOW, script, *overrides)
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "run")
    windows = run.of_kind("window")
    assert len(windows) == 2 and min(row["seconds"] for row in windows) >= 0.2
    for row in windows:  # the wait is none of the host's own work
        host = row["data_seconds"] + row["dispatch_seconds"]
        assert 0 < row["dispatch_seconds"] < host <= row["seconds"] - 0.2
    # XLA compiles, before the first window and in a figure of its own.
    assert (run.summary["compile_seconds"] > 0) == (framework == "jax")


# A twin whose calls are noted: W a window's batches are planned, s a step is issued,
# and . the device is waited for.
ORDER = """
import sys
from importlib import import_module
from tests.faults.inject import twin
train = import_module(f"{twin()}_impl.train")

def noted(mark, call):
    def noting(*given, **named):
        print(mark, end="", file=sys.stderr, flush=True)
        return call(*given, **named)

    return noting

def compiled(*given):
    steps, evaluate, compilation = compile_steps(*given)
    return [noted("s", step) for step in steps], evaluate, compilation

train.window_batches = noted("W", train.window_batches)
train.synchronize = noted(".", train.synchronize)
if twin() == "jax":
    compile_steps, train.compile_steps = train.compile_steps, compiled
else:
    train.train_step = noted("s", train.train_step)
"""


def test_the_host_prepares_a_window_while_the_device_computes_the_one_before(
    framework, script, run_planted, tmp_path
):
    overrides = [
        *("train.steps=5", "train.log_every_steps=2"),
        f"run.dir={tmp_path / 'run'}",
    ]
    done = run_planted(ORDER, script, *overrides)
    assert done.returncode == 0, done.stderr
    # Windows of 1, 2 and 2 steps. JAX compiles for what it plans first.
    assert done.stderr.removeprefix("W" * (framework == "jax")) == "WsW.ssW.ss."


@pytest.mark.quick_in("jax")
def test_what_is_timed_after_a_training_changes_nothing_of_it(framework, train):
    recipe = ["experiment=digits_cnn", "precision=fp64", "train.steps=4"]
    recipe += ["data.augment.pad_crop=2", "optim=adamw"]
    alone = read_run(train(framework, *recipe))
    timed = read_run(train(framework, *recipe, "train.timed_seconds=0.2"))
    windows = [row for row in timed.of_kind("window") if row["measured"]]
    assert len(windows) >= 5 and sum(row["seconds"] for row in windows) >= 0.2
    rates = [row["images_per_second"] for row in windows]
    assert timed.summary["images_per_second"]["windows"] == rates
    for kind in "step", "evaluation":
        assert timed.of_kind(kind) == alone.of_kind(kind)
    assert max(leaf_differences(alone.weights, timed.weights).values()) == 0
    assert timed.summary["config_hash"] == alone.summary["config_hash"]


def test_a_whole_run_loads_its_own_framework_alone(framework, run_python, tmp_path):
    overrides = ["tracking=wandb", "train.steps=3", f"run.dir={tmp_path / 'run'}"]
    threads = {"OMP_NUM_THREADS": None}  # as many as PyTorch has by itself
    done = run_python(["-c", LOADED, SCRIPTS[framework], *overrides], **threads)
    assert f"loaded: ['{framework}']" in done.stdout, done.stdout + done.stderr


def test_digits_cnn_reaches_its_accuracy(framework, train):
    run = read_run(train(framework, "experiment=digits_cnn"))
    assert run.summary["test"]["accuracy"] >= 0.96


def test_fashion_mlp_reaches_its_accuracy_on_sixty_thousand_images(
    train, fashion_mnist
):
    accuracies = []
    for framework in "torch", "jax":
        run = read_run(train(framework, "experiment=fashion_mlp"))
        assert run.rows[-1]["step"] == 5 * (60_000 // 128)
        accuracies.append(run.summary["test"]["accuracy"])
    assert min(accuracies) >= 0.86
    assert abs(accuracies[0] - accuracies[1]) <= 0.002


def test_synthetic_data_takes_the_place_of_any_other(train):
    run = read_run(train("jax", "experiment=mnist_cnn", "data=synthetic"))
    assert run.config.data.name == "synthetic"
    assert run.summary["test"]["accuracy"] > 0.8


def test_tensorboard_mirrors_a_jax_run(train):
    folder = train("jax", "tracking=tensorboard", "train.steps=5")
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))


def test_without_the_exchange_each_device_trains_alone_in_either_twin(train):
    recipe = ("precision=fp64", "train.steps=8", "train.evaluate_every_epochs=0")
    alone = (*recipe, "parallel.grad_sync=false")
    torch = read_run(train("torch", *alone, processes=2))
    jax = read_run(train("jax", *alone, "devices=2", "profile=true"))
    assert relative_difference(losses(jax), losses(torch)).max() <= 1e-12
    assert max(leaf_differences(jax.weights, torch.weights).values()) <= 1e-12
    # And not together, as the same recipe does by default.
    together = read_run(train("torch", *recipe, "profile=true"))
    assert relative_difference(losses(together), losses(torch)).max() >= 1e-3
    assert together.summary["config_hash"] != torch.summary["config_hash"]
    for run in jax, together:
        with gzip.open(run.path / "profile" / "rank0.json.gz") as file:
            assert json.load(file)["traceEvents"]
