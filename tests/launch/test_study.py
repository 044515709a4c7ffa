"""Studies as their users start them, on this machine and on a real SLURM."""

import contextlib
import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from copy import deepcopy
from types import SimpleNamespace

import psutil
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from rich.console import Console

from launch.overrides import refusal
from launch.study import checked, run_study
from launch.study_plan import Study, check_runs, composed, description, works
from launch.study_screen import show_plan, table
from recipe.config import Config, to_config
from recipe.errors import ConfigError, RecordError
from recipe.study import StudyConfig, StudyPlan, configurations
from record.disk import locked
from record.run import read_summary
from tests.conftest import NO_GPU, ROOT, clean_environment
from tests.launch.slurm_cluster import NODES

STUDY = "launch/study.py"
SMALL = (
    *(STUDY, "experiment=linear_line", "train.steps=4", "study.precision=[fp64]"),
    *("study.parity=['train.steps=4','jax_layouts=[devices]']", "study.wait_minutes=0"),
    "study.timed_seconds=0.1",
)


@pytest.fixture
def own(tmp_path) -> dict[str, str]:
    """An environment whose lock on the machine is this test's own."""
    (tmp_path / "tmp").mkdir()
    return {"TMPDIR": str(tmp_path / "tmp"), "COLUMNS": "200"}


def test_a_study_that_was_killed_runs_only_what_is_missing(
    run_quickly, root, own, tmp_path
):
    command = [
        *(*SMALL, "study.framework=[torch]", "study.world_size=[1]"),
        *("study.repeats=2", f"run.dir={tmp_path / 'study'}"),
    ]
    study = subprocess.Popen(
        [sys.executable, *command],
        cwd=root,
        env=clean_environment() | NO_GPU | own,
        stdout=subprocess.DEVNULL,
    )
    ended = tmp_path / "study" / "cells.jsonl"
    while not ended.exists():  # the parity check comes first
        assert study.poll() is None
        time.sleep(0.1)
    study.kill()
    study.wait()
    done = run_quickly(command, **own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "are finished; running the" in done.stdout
    assert "one at a time (" in done.stdout and ", by 1 run that" in done.stdout
    names = [row["name"] for row in rows(tmp_path / "study")]
    assert names[0] == "parity-fp64-dp"
    assert len(names) == len(set(names)) == 3
    for repeat in 1, 2:
        summary = read_summary(tmp_path / "study" / f"torch-1-fp64-dp-{repeat}")
        assert summary["status"] == "finished"
        assert len(summary["images_per_second"]["windows"]) >= 5
    again = run_quickly(command, **own)
    assert "3 of 3 are finished" in again.stdout
    assert len(ended.read_text().splitlines()) == len(names)


def test_a_failed_run_is_named_with_its_log_and_the_study_continues(
    run_quickly, own, tmp_path
):
    done = run_quickly(
        [
            *(STUDY, "experiment=mnist_mlp", f"data.root={tmp_path / 'data'}"),
            *("study.framework=[torch]", "study.world_size=[1]", "study.repeats=1"),
            *("study.wait_minutes=0", f"run.dir={tmp_path / 'study'}"),
        ],
        http_proxy="http://127.0.0.1:9",
        https_proxy="http://127.0.0.1:9",
        **own,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1/2 parity-fp32-dp: failed" in done.stdout
    assert "2/2 torch-1-fp32-dp-1: failed" in done.stdout
    assert f"{tmp_path / 'study' / 'torch-1-fp32-dp-1.log'}" in done.stdout
    assert "train-images-idx3-ubyte" in done.stdout


def test_a_dry_run_prints_every_cell_and_makes_nothing(run_quickly, tmp_path):
    folder = tmp_path / "study"
    done = run_quickly([STUDY, "--dry-run", f"run.dir={folder}"])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("recipe=(experiment=")
    assert lines[1].startswith("parity-fp32-dp: ")
    assert max(map(len, lines)) < 500 and not any('"\'"' in line for line in lines)
    assert sum("launch/pytorch.py" in line for line in lines) == 10
    assert sum("launch/jax.py" in line for line in lines) == 10
    assert "device-hours" in done.stdout
    assert not folder.exists()


PLANS = sorted(path.stem for path in (ROOT / "conf" / "study").glob("*.yaml"))


@pytest.mark.parametrize("name", PLANS)
def test_every_cell_of_every_plan_is_one_that_can_be(name, config, monkeypatch):
    monkeypatch.setattr("launch.study_plan.composed", lambda o, _: config(*o))
    ConfigStore.instance().store("schema", node=StudyConfig)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plan = to_config(compose("study", [f"study={name}"]), StudyConfig).study
    assert plan.name == name and plan.repeats >= 5
    assert 1 in plan.world_size or plan.bandwidth_mbit
    check_runs(plan, plan.recipe)


@functools.cache  # Hydra takes a tenth of a second, and there is one for each cell
def composed_once(overrides: tuple[str, ...], *schema) -> Config:
    return composed(list(overrides), *schema)


@pytest.fixture
def begin(monkeypatch):
    """`begin("study=demo")`: the checked study, of which nothing has started."""
    monkeypatch.setattr(
        "launch.study_plan.composed",
        lambda overrides, *schema: deepcopy(composed_once(tuple(overrides), *schema)),
    )

    def begin(*typed: str) -> Study:
        ConfigStore.instance().store("schema", node=StudyConfig)
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            try:
                config = compose("study", list(typed))
            except HydraException as error:
                raise refusal(error, StudyConfig) from error
            return checked(to_config(config, StudyConfig), list(typed))

    return begin


REFUSED = {
    "study.precision=[fp8]": ("run torch-1-fp8-dp", "fp16, fp32, fp64"),
    "study.framework=[torch,mxnet]": ("mxnet is unknown", "torch, jax"),
    "study.data=[fake]": ("fake is unknown", "real, synthetic"),
    "study.sizes=[1]": ("study.sizes is not a key",),
    "study=demi": ("demi", "demo, gpu_node"),
    "precision=fp64": ("an axis of the study", "study.precision=[...]"),
    "parallel.grad_sync=false": ("an axis of the study", "study.grad_sync=[...]"),
    "profile=true": ("a trace takes time",),
    "platform=cpu": ("cluster.gpus_per_node decides",),
    "train.timed_seconds=1": ("use study.timed_seconds",),
    "parallel.cores_per_device=1": ("cluster.cores_per_device decides",),
    "train.trace=3": ("run torch-1-fp32-dp", "train.timed_seconds=3"),
    "study.model=[mlp,lenet]": ("run torch-lenet-1-fp32-dp", "lenet is unknown"),
    'study.parity=["bogus=1"]': ("run parity-fp32-dp", "bogus"),
    'study.parity=["controls=0"]': ("run parity-fp32-dp", "controls must be"),
    'study.parity=["trace=1"]': ("run parity-fp32-dp", "give no verdict"),
    'study.parity=["a=x","b=y"]': ("run parity-fp32-dp", "give no verdict"),
    "cluster=slurm": ("needs sbatch", "cluster=local"),
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_cannot_be_is_refused_before_anything_starts(
    begin, override, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM, whatever this machine has
    with pytest.raises(ConfigError) as refused:
        begin(override, f"run.dir={tmp_path / 'study'}")
    for word in REFUSED[override]:
        assert word in str(refused.value)
    assert not (tmp_path / "study").exists()


def test_runs_over_links_begin_with_what_makes_these(begin, tmp_path):
    links = "study.bandwidth_mbit=[unlimited,10]", "study.world_size=[2]"
    typed = *links, "study.timed_seconds=null", "dry_run=true", "study.seeds=true"
    study = begin(*typed, f"run.dir={tmp_path / 'study'}")
    found = works(study)
    limited = found["jax-2-fp32-dp-10mbit-3"].command
    assert limited[1:5] == ["-m", "launch.links", "--mbit=10", "--processes=2"]
    assert limited[6:8] == [f"--run={tmp_path}/study/jax-2-fp32-dp-10mbit-3"] + [
        "launch/jax.py"
    ]
    assert {"train.steps=5", "train.seed=2", "devices=2"} < {*limited}
    whole = found["jax-2-fp32-dp-unlimited-3"].command
    assert "train.steps=100" in whole and "train.steps=5" not in whole
    assert "launch.links" not in found["parity-fp32-dp"].command
    for other in ["cluster=slurm"], ["cluster.gpus_per_node=2"]:
        with pytest.raises(ConfigError, match="makes hosts on this machine's CPUs"):
            begin(*typed, *other)


def test_without_root_there_is_no_study_of_links(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    links = "study.bandwidth_mbit=[10]", "study.world_size=[2,64]"
    typed = *links, "study.timed_seconds=null", f"run.dir={tmp_path / 'study'}"
    batch = "train.global_batch_size=64"
    with pytest.raises(ConfigError, match="study.bandwidth_mbit: links need root"):
        begin(*typed, batch)
    assert begin(*typed, batch, "dry_run=true").not_here  # a plan, though
    monkeypatch.setattr("launch.hosts.why_not", str)
    assert begin(*typed, batch).cores == 1  # which 64 processes share


def test_data_that_is_synthetic_already_is_no_arm(begin, tmp_path):
    with pytest.raises(ConfigError, match="is synthetic already"):
        begin("data=synthetic", "study.data=[real,synthetic]", f"run.dir={tmp_path}")


@pytest.mark.parametrize(
    ("data", "given", "reset"),
    [
        ("custom", "data.label_offset=1", "data.label_offset=0"),
        ("folder", "data.split_seed=1", "data.split_seed=0"),
    ],
)
def test_one_s_own_images_have_a_synthetic_configuration(
    begin, tmp_path, monkeypatch, data, given, reset
):
    monkeypatch.chdir(tmp_path)
    typed = [f"data={data}", "data.files=mine.npz", given]
    study = begin(*typed, "study.data=[real,synthetic]", f"run.dir={tmp_path}/study")
    commands = works(study)
    real = commands["torch-1-fp32-dp-1"].command
    assert f"data.files={tmp_path}/mine.npz" in real  # wherever it is started
    synthetic = commands["torch-1-fp32-dp-synthetic-1"].command
    assert synthetic.index("data.files=null") > synthetic.index(given)
    assert synthetic.index(reset) > synthetic.index(given)


def test_each_model_of_a_study_has_its_own_parity_check(begin, tmp_path):
    study = begin("study.model=[mlp,cnn]", f"run.dir={tmp_path}")
    work_of = works(study)
    for model in "mlp", "cnn":
        for name in f"parity-{model}-fp32-dp", f"torch-{model}-2-fp32-dp-1":
            assert f"model={model}" in work_of[name].command
    with pytest.raises(ConfigError, match="an axis of the study"):
        begin("study.model=[mlp,cnn]", "model=mlp", f"run.dir={tmp_path}")
    begin("model=mlp", f"run.dir={tmp_path}")


def test_each_cell_is_timed_and_pinned_as_the_study_says_and_no_parity_check(
    begin, tmp_path
):
    typed = "study.timed_seconds=0.5", "cluster.cores_per_device=1"
    study = begin(*typed, f"run.dir={tmp_path / 'study'}")
    own = {"train.timed_seconds=0.5", "parallel.cores_per_device=1"}
    for name, work in works(study).items():
        assert own & {*work.command} == (set() if name.startswith("parity") else own)


def test_a_refusal_is_one_line_and_status_2(run_quickly, tmp_path):
    done = run_quickly([STUDY, "study.data=[fake]", f"run.dir={tmp_path / 'study'}"])
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == done.stderr.count("error: ") == 1
    assert not (tmp_path / "study").exists()


def test_a_plan_for_gpus_is_shown_where_there_are_none(begin, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    typed = "study=gpu_node", "cluster.gpus_per_node=8", f"run.dir={tmp_path / 'study'}"
    with pytest.raises(ConfigError, match="this machine has 0"):
        begin(*typed)
    with io.StringIO() as said:
        show_plan(begin(*typed, "dry_run=true"), Console(file=said))
        *_, last = said.getvalue().splitlines()
    assert "it cannot run here: cluster.gpus_per_node=8, but this machine has 0" in last


def test_a_check_trains_at_the_batch_of_one_device_and_the_plan_says_so(
    begin, tmp_path
):
    typed = "cluster=slurm", "cluster.gpus_per_node=8", "dry_run=true"
    study = begin("study=cluster", *typed, f"run.dir={tmp_path / 'study'}")
    (check, *_) = works(study).values()
    assert [w for w in check.command if "global_batch_size" in w] == [
        "train.global_batch_size=128"
    ]
    keys = [w.partition("=")[0] for w in check.command if "=" in w]
    assert len(keys) == len(set(keys))
    assert check.devices == 2  # conf/study/cluster.yaml's world_sizes
    assert study.batches == [
        "parity-bf16-dp trains at a global batch of 128, which fits one "
        "device; the study's runs at 128 to 4,096"
    ]
    assert begin(f"run.dir={tmp_path / 'study'}").batches == []
    with pytest.raises(ConfigError, match="do not fit one node of 8"):
        begin(*typed, "study=cluster", 'study.parity=["world_sizes=[1,16]"]')


def test_a_study_recorded_with_old_names_of_keys_is_resumed(begin, tmp_path):
    typed = "train.global_batch_size=64", f"run.dir={tmp_path}"
    held = description(begin(*typed))
    old = {
        "grad_sync": "exchange",
        "train.global_batch_size=64": "train.global_batch=64",
    }
    held |= {
        "schema_version": 1,
        "order": [{old.get(k, k): v for k, v in c.items()} for c in held["order"]],
        "recipe": [old.get(o, o) for o in held["recipe"]],
    }
    assert "train.global_batch=64" in held["recipe"] and "exchange" in held["order"][0]
    (tmp_path / "study.json").write_text(json.dumps(held))
    assert begin(*typed).started


def test_the_folder_of_another_study_is_refused(begin, tmp_path):
    def again(*typed: str) -> Study:
        return begin(*typed, f"run.dir={tmp_path}")

    held = tmp_path / "study.json"
    held.write_text(json.dumps(description(again())))
    assert again("cluster.minutes=5").started
    for typed, told in (
        (["study.repeats=4"], "study.repeats is 4, was 5"),
        (["study.order_seed=4"], "study.order_seed is 4, was 0"),
        (["study.framework=[jax]"], "study.framework is ['jax'], was ['jax', 'torch']"),
        (["train.seed=4"], "train.seed=4 is asked for"),
        (["study.timed_seconds=9"], "study.timed_seconds is 9.0, was 3.0"),
        (["study.timed_seconds=null"], "study.timed_seconds is None, was 3.0"),
        (["study.seeds=true"], "study.seeds is True, was False"),
        (["cluster.exclusive=false"], "cluster.exclusive is False, was True"),
    ):
        with pytest.raises(ConfigError) as refused:
            again(*typed)
        assert f"contains another study ({told}); choose" in str(refused.value)
    other = json.loads(held.read_text())
    held.write_text(json.dumps(other | {"order": other["order"][::-1]}))
    with pytest.raises(ConfigError, match="another study .its order differs"):
        again()
    held.write_text('{"name": "weak"}')
    with pytest.raises(RecordError, match="is not of a study"):
        again()
    held.rename(tmp_path / "notes.json")
    with pytest.raises(RecordError, match="already holds other files"):
        again()


def test_a_folder_has_one_study_at_a_time(begin, tmp_path, monkeypatch):
    study = begin(f"run.dir={tmp_path}")
    (tmp_path / "study.json").write_text(json.dumps(description(study)))
    monkeypatch.setattr("launch.study.checked", lambda config, typed: study)
    monkeypatch.setattr("launch.study.typed_keys", list)
    said = f"{tmp_path} is being written by process {os.getpid()} on "
    with locked(tmp_path / ".lock"), pytest.raises(RecordError, match=said):
        run_study(SimpleNamespace(dry_run=False))
    assert {path.name for path in tmp_path.iterdir()} == {"study.json", ".lock"}


def test_a_plan_for_slurm_needs_no_slurm(begin, tmp_path, monkeypatch):
    sinfo = tmp_path / "sinfo"
    for name in "sbatch", "srun", "squeue", "sinfo":
        file = tmp_path / name
        file.write_text("#!/bin/sh\necho 'no controller' >&2; echo why >&2; exit 1\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    typed = "cluster=slurm", "cluster.gpus_per_node=4", f"run.dir={tmp_path / 'study'}"
    with pytest.raises(ConfigError, match="says no controller; start .* SLURM_CONF"):
        begin(*typed)
    sinfo.unlink()
    show_plan(begin(*typed, "dry_run=true"), Console(quiet=True))


SLURM_REFUSED = {
    "cluster.partition=gpu": ("does not exist; one of: debug",),
    "cluster.gpus_per_node=3": ("a node of partition debug has 2",),
    "study.world_size=[3]": ("3 nodes of 1 devices, more than the 2 of partition",),
}


@pytest.mark.parametrize("override", SLURM_REFUSED)
def test_what_the_cluster_has_not_is_refused(
    begin, slurm, override, tmp_path, monkeypatch
):
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    with pytest.raises(ConfigError) as refused:
        begin("cluster=slurm", override, f"run.dir={tmp_path / 'study'}")
    for word in SLURM_REFUSED[override]:
        assert word in str(refused.value)
    assert slurm.run("squeue", "-h").stdout == ""


def test_a_study_on_slurm_comes_to_its_last_cell(slurm, run_python, own, tmp_path):
    folder = tmp_path / "study"
    done = run_python(
        [
            *(*SMALL, "cluster=slurm", "study.world_size=[2]", "study.repeats=1"),
            *("cluster.cores_per_device=2", f"run.dir={folder}"),
            f"cluster.setup=['export READY=yes','echo $READY > {tmp_path}/ready']",
            "cluster.srun_args=['--mpi=none']",
            "cluster.additional=['--comment=of a study']",
        ],
        SLURM_CONF=slurm.env["SLURM_CONF"],
        **own,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "squeue --me" in done.stdout
    jobs = {row["name"]: row["job"] for row in rows(folder)}
    assert len(jobs) == len(set(jobs.values())) == 3
    for name, job in jobs.items():
        assert f"job {job}: {name}" in done.stdout
        assert slurm.states(job) == ["COMPLETED"]
    for framework in "torch", "jax":
        summary = read_summary(folder / f"{framework}-2-fp64-dp-1")
        assert (summary["status"], summary["processes"]) == ("finished", 2)
    scripts = [p.read_text() for p in (folder / "submitit").glob("*_submission.sh")]
    assert scripts and (tmp_path / "ready").read_text() == "yes\n"
    for script in scripts:
        assert "--cpus-per-task=2 --mpi=none " in script and "wckey" not in script
    assert all(row["seconds"] > 0 for row in rows(folder))
    comment = slurm.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%k").stdout
    assert comment.strip() == "of a study"
    assert slurm.run("squeue", "-h").stdout == ""


def test_a_run_that_slurm_ends_is_reported_with_its_job_and_why(
    slurm, root, own, tmp_path
):
    folder = tmp_path / "study"
    command = [
        *(*SMALL, "cluster=slurm", "study.framework=[torch]", "study.world_size=[2]"),
        *("study.repeats=1", f"run.dir={folder}"),
    ]
    study = subprocess.Popen(
        [sys.executable, *(word.replace("=4", "=1000000") for word in command)],
        cwd=root,
        env=clean_environment()
        | NO_GPU
        | own
        | {"SLURM_CONF": slurm.env["SLURM_CONF"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    jobs = folder / "submitit" / "jobs.json"
    ends = {  # by what is there once it runs
        "parity-fp64-dp": ("torch-1.log", "it was cancelled"),
        "torch-2-fp64-dp-1": ("metrics.jsonl", "its node failed"),
    }
    for name, (begun, _) in ends.items():
        while not (folder / name / begun).exists():
            assert study.poll() is None
            time.sleep(0.1)
        if name.startswith("parity"):
            slurm.run("scancel", *json.loads(jobs.read_text()))
        else:
            slurm.lose(NODES[0])
    said = study.communicate(timeout=300)[0]
    assert study.returncode == 1
    for row in rows(folder):
        log, why = folder / row["log"], ends[row["name"]][1]
        assert row["status"] == "failed"
        told = f"{row['name']}: failed, job {row['job']}, see {log}:\n"
        assert f"error: {why}" in said.partition(told)[2].partition("/2 ")[0]


def rows(folder) -> list[dict]:
    """What a study noted of whatever ended, by name."""
    return [
        json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()
    ]


STOPS = {  # Ctrl-C comes to it, to submitit and to the cell; another's signal to it
    signal.SIGINT: (os.killpg, 130, "parity-fp64-dp/torch-1/metrics.jsonl"),
    signal.SIGTERM: (os.kill, 143, "parity-fp64-dp.log"),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_study_that_is_stopped_leaves_nothing_running(stop, root, own, tmp_path):
    send, status, sign = STOPS[stop]
    command = [*SMALL, "study.world_size=[1]", f"run.dir={tmp_path / 'study'}"]
    command = [word.replace("steps=4", "steps=1000000") for word in command]
    study = subprocess.Popen(
        [sys.executable, *command],
        cwd=root,
        env=clean_environment() | NO_GPU | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    begun = tmp_path / "study" / sign
    while not begun.exists() or not begun.stat().st_size:
        assert study.poll() is None
        time.sleep(0.2)
    send(study.pid, stop)
    assert "Traceback" not in study.communicate(timeout=120)[1]
    assert study.returncode == status
    deadline = time.monotonic() + 30  # submitit looks once a second for its end
    while (left := those_at(str(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def those_at(place: str) -> list[psutil.Process]:
    """Processes whose command line names a place."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(place in word for word in process.cmdline()):
                found.append(process)
    return found


def test_the_table_gives_exposed_communication_with_its_interval():
    """As the page does: from three repeats on, of the full step."""
    plan = StudyPlan(
        **{"name": "line", "regime": "strong", "framework": ["torch"], "repeats": 3},
        **{"world_size": [2], "grad_sync": [True, False]},
    )
    rates = {
        point: [(80.0 if point.grad_sync else 100.0) + repeat for repeat in (1, 2, 3)]
        for point in configurations(plan)
    }

    def shown(rates):
        console = Console(width=200)
        with console.capture() as captured:
            console.print(table(plan, rates))
        return captured.get()

    assert re.search(r"20% \(1\d% to 2\d%\)", shown(rates))
    two = shown({point: of[:2] for point, of in rates.items()})
    assert "20%" in two and "20% (" not in two
