"""Real runs that are interrupted and resume: each equals an uninterrupted one."""

import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest

from record.run import read_run, read_summary
from report.parity.differences import (
    leaf_differences,
    losses,
    relative_difference,
)
from tests.conftest import NO_GPU, clean_environment, exhaustive_but
from tests.launch.conftest import NORMED

SHORT = ["train.steps=12", "train.log_every_steps=3", "checkpoint.every_minutes=null"]
SAVING = [*SHORT, "checkpoint.every_steps=5", "checkpoint.keep=3"]
ADAM = ["optim=adamw", "parallel=fsdp", "optim.ema_decay=0.9"]
AVERAGED = [*NORMED, "optim.ema_decay=0.9", "optim.lr_factors={head: 2}"]
AVERAGED += ["train.freeze=[stem,norm]", "optim.peak_lr=0.001"]
ALL = [*NORMED, *ADAM, "train.freeze=[stem,norm]"]
HALF = ["optim=adamw", "precision=fp16", "model.dropout=0.5"]
FEDERATED = ["experiment=digits_fedavg", "model.hidden=[16]", "federated.clients=9"]
FEDERATED += [
    "federated.split=dirichlet",
    "federated.fraction=0.4",
    "optim.momentum=.9",
]


@pytest.fixture
def resume(forked):
    def resume(framework, folder, *overrides, processes=1, status=0):
        given = f"run.dir={folder}", *overrides
        statuses, said = forked(framework, *given, processes=processes)
        assert statuses == [status] * processes, said
        return said

    return resume


def killed(folder, copy, step):
    """What SIGKILL leaves some steps after a checkpoint; the later ones are lost."""
    shutil.copytree(folder, copy)
    (copy / "summary.json").unlink()
    for name in "final.safetensors", "last.safetensors":
        (copy / name).unlink(missing_ok=True)
    for path in (copy / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    return copy


def assert_the_same(one, other):
    one, other = read_run(one), read_run(other)
    steps = one.of_kind("step")
    assert steps and steps == other.of_kind("step")
    assert one.summary["test"] == other.summary["test"]
    for name, array in one.weights.items():
        np.testing.assert_array_equal(array, other.weights[name], err_msg=name)


@pytest.mark.parametrize(
    ("overrides", "processes"),
    exhaustive_but(
        [([], 1), (ALL, 2)],
        [
            ([], 1),
            (HALF, 1),
            (ALL, 2),
            (AVERAGED, 1),
            ([], 2),
            (ADAM, 2),
            (FEDERATED, 1),
        ],
    ),
    ids=[
        *("sgd", "dropout in fp16", "batch norm, sharded adamw averaged"),
        *("frozen batch norm averaged", "two processes", "sharded adamw averaged"),
        "federated",
    ],
)
def test_a_killed_run_that_resumes_is_the_uninterrupted_one(
    train, resume, framework, overrides, processes, tmp_path
):
    overrides = [*SAVING, *overrides]
    whole = train(framework, *overrides, processes=processes)
    cut = killed(whole, tmp_path / "run", step=5)
    said = resume(framework, cut, *overrides, processes=processes)
    assert "resumes after step 5" in said
    assert_the_same(whole, cut)


@pytest.mark.quick_in("jax")
def test_a_federated_run_resumes_at_another_world_size(
    train, resume, framework, tmp_path
):
    overrides = [*SAVING, *FEDERATED, "precision=fp64"]
    whole = train(framework, *overrides)
    cut = killed(whole, tmp_path / "run", step=5)
    resume(framework, cut, *overrides, processes=2)
    one, other = read_run(whole), read_run(cut)
    assert relative_difference(losses(one), losses(other)).max() <= 1e-12
    assert max(leaf_differences(one.weights, other.weights).values()) <= 1e-12
    rounds = one.of_kind("federated")
    assert rounds == other.of_kind("federated") and len(rounds) == 12
    assert one.of_kind("step")[-1]["examples"] == sum(r["examples"] for r in rounds)
    payload = 4 * 8 * one.summary["parameters"]  # four clients, fp64
    assert {row["bytes_up"] for row in rounds} == {payload}


@pytest.mark.quick_in("jax")
def test_a_finished_run_trained_on_is_the_one_that_was_longer_from_the_start(
    train, resume, framework, tmp_path
):
    constant = ["train.log_every_steps=3", "schedule=constant"]
    constant += ["schedule.warmup_steps=4", "train.steps=12"]
    short = train(framework, *constant, "train.steps=7")
    longer = tmp_path / "run"
    said = resume(framework, longer, *constant, f"run.resume={short}")
    assert "resumes after step 7" in said
    assert_the_same(train(framework, *constant), longer)
    run = read_run(longer)
    assert [row["differences"] for row in run.of_kind("resume")] == [[]]
    assert run.summary["resumed_anyway"] == []


def test_a_run_swapped_between_frameworks_is_the_unswapped_one(train, resume, tmp_path):
    overrides = [*SHORT, "checkpoint.every_steps=4", "checkpoint.keep=9"]
    overrides += ["precision=fp64", "optim=adamw", "optim.ema_decay=0.8"]
    whole = train("torch", *overrides)
    in_jax = killed(whole, tmp_path / "jax", step=4)
    resume("jax", in_jax, *overrides)
    again = killed(in_jax, tmp_path / "torch", step=8)
    resume("torch", again, *overrides)
    one, other = read_run(whole), read_run(again)
    assert relative_difference(losses(one), losses(other)).max() <= 1e-10
    assert max(leaf_differences(one.weights, other.weights).values()) <= 1e-10
    assert [r["framework"] for r in other.of_kind("resume")] == ["jax", "torch"]


@pytest.mark.quick_in("torch")
def test_a_run_that_is_asked_to_stop_saves_and_resumes(
    train, resume, script, framework, quick_python, root, tmp_path
):
    recipe = ["train.steps=300", "train.log_every_steps=3"]
    folder = tmp_path / "run"
    with subprocess.Popen(
        [quick_python, str(root / script), f"run.dir={folder}", *recipe],
        env=clean_environment() | NO_GPU,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            while not process.stdout.readline().startswith("step "):
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == os.EX_TEMPFAIL, err
    assert err.startswith("stopped: asked to by SIGTERM; saved after step ")
    assert read_summary(folder)["status"] == "stopped"
    step = json.loads((folder / "REQUEUE").read_text())["step"]
    assert f"resumes after step {step}" in resume(framework, folder, *recipe)
    assert not (folder / "REQUEUE").exists()
    assert_the_same(train(framework, *recipe), folder)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.seed=1"], "train.seed is 1, was 0"),
        (["model.hidden=[8]", "run.resume_anyway=true"], "does not fit: in weights"),
        (["run.resume=never"], "already holds an unfinished run"),
    ],
)
def test_what_would_be_another_run_is_refused(cut, resume, overrides, words, tmp_path):
    run = shutil.copytree(cut, tmp_path / "run")
    assert words in resume("torch", run, *SAVING, *overrides, status=2)


@pytest.mark.quick_in("torch")
def test_an_average_may_start_where_a_run_resumes(cut, resume, framework, tmp_path):
    run = shutil.copytree(cut, tmp_path / "run")
    given = [*SAVING, "optim.ema_decay=0.9"]
    said = resume("torch", run, *given, status=2)
    assert "optim.ema_decay is 0.9, was nothing" in said
    resume(framework, run, *given, "run.resume_anyway=true")
    manifest = run / "checkpoints" / "step-00000010" / "manifest.json"
    assert json.loads(manifest.read_text())["state"] == {"average_updates": 5}
    weights = read_run(run).weights
    kernel, average = weights["dense.0.kernel"], weights["average of dense.0.kernel"]
    assert 0 < np.abs(kernel - average).max() < 0.1


@pytest.fixture(scope="module")
def cut(train, tmp_path_factory):
    return killed(train("torch", *SAVING), tmp_path_factory.mktemp("cut") / "run", 5)


REPLICAS = [
    *(*NORMED, *SAVING, "model.norm.sync=false", "precision=fp64", "optim=adamw"),
    *("parallel=diloco", "parallel.every=4", "parallel.fragments=2"),
    *("parallel.delay=1", "parallel.warmup_steps=2"),
]


@pytest.mark.quick_in("torch")
def test_replicas_killed_between_two_rounds_resume_as_uninterrupted(
    train, resume, framework, tmp_path
):
    whole = train(framework, *REPLICAS, processes=2)
    cut = killed(whole, tmp_path / "run", step=5)
    assert "world_size is 1, was 2, and parallel=local_sgd" in resume(
        framework, cut, *REPLICAS, status=2
    )
    of_one = "run.resume_anyway=true", "parallel=dp"
    assert "its optimizer state is of replicas that train alone" in resume(
        framework, cut, *NORMED, *SAVING, *of_one, processes=2, status=2
    )
    assert "resumes after step 5" in resume(framework, cut, *REPLICAS, processes=2)
    assert_the_same(whole, cut)
    rounds = read_run(cut).of_kind("round")
    assert rounds == read_run(whole).of_kind("round")
    met = [(row["step"], row["fragment"]) for row in rounds]
    assert met == [(4, 1), (6, 0), (8, 1), (10, 0), (12, 1)]
    last = f"checkpoints/step-{12:08d}"
    for file in sorted(path.name for path in (whole / last).glob("*.safetensors")):
        kept, other = ((of / last / file).read_bytes() for of in (whole, cut))
        assert kept == other, file


@pytest.mark.parametrize(
    ("framework", "overrides", "processes"),
    [("jax", ["devices=2"], 1), ("jax", [], 2)],
    ids=["jax devices", "jax processes"],
)
def test_replicas_are_the_same_in_both_frameworks_and_every_layout(
    train, framework, overrides, processes
):
    one = read_run(train("torch", *REPLICAS, processes=2))
    other = read_run(train(framework, *REPLICAS, *overrides, processes=processes))
    assert relative_difference(losses(one), losses(other)).max() <= 1e-10
    assert max(leaf_differences(one.weights, other.weights).values()) <= 1e-10
    assert one.summary["test"]["loss"] == pytest.approx(
        other.summary["test"]["loss"], rel=1e-10
    )
    for row, twin in zip(one.of_kind("round"), other.of_kind("round"), strict=True):
        assert row.pop("kind") == twin.pop("kind")
        assert row == pytest.approx(twin, rel=1e-6)
