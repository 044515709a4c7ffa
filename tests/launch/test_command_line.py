"""What the scripts do before any training: Hydra's own features, and refusals."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from record.run import read_summary
from tests.conftest import FASHION, NO_GPU, clean_environment, exhaustive_but
from tests.launch.conftest import SCRIPTS, refused, torchrun

JAX = "launch/jax.py"
PARITY = "launch/parity.py"
STUDY = "launch/study.py"


@pytest.mark.parametrize("name", [*SCRIPTS.values(), PARITY, STUDY])
def test_cfg_job_prints_the_composed_config(run_quickly, name):
    done = run_quickly([name, "experiment=fashion_cnn", "--cfg", "job"])
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert (config["name"], config["model"]["name"]) == ("fashion_cnn", "cnn")


def test_help_lists_the_groups(run_quickly):
    done = run_quickly([JAX, "--help"])
    assert done.returncode == 0
    for word in "digits_cnn", "fashion_mlp", "fp64", "pmap", "wandb", "torchrun":
        assert word in done.stdout


def test_tab_completion_names_the_experiments(run_quickly):
    line = f"python {JAX} experiment=fash"
    done = run_quickly(
        [JAX, "-sc", "query=bash"],
        COMP_LINE=line,
        COMP_POINT=str(len(line)),
        COMP_CWORD="2",
    )
    found = [f"experiment=fashion_{name}" for name in ("cnn", "fedavg", "mlp")]
    assert done.stdout.split() == found


def test_the_scripts_work_from_any_directory(run_python, root, tmp_path):
    (tmp_path / "jax.py").write_text("raise SystemExit('the wrong jax')")
    done = run_python([root / JAX, "train.steps=2"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [p.parent.name for p in tmp_path.rglob("summary.json")] != []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["jax.py", "runs"]


BAD_OVERRIDES = {
    "experiment=digit_mlp": ("digit_mlp", "digits_mlp"),
    "train.global_bach=64": (
        "train.global_bach is not a key; did you mean train.global_b",
    ),
    "+train.step=5": ("train.step is not a key; did you mean train.steps",),
    "++train.step=5": ("train.step is not a key; did you mean train.steps",),
    "+date=digits": ("date is not a key; did you mean data",),
    "--experiment=digits_cnn": ("with =: experiment=digits_cnn; --help",),
    "train.steps": ('train.steps has no "="; write train.steps=VALUE;',),
    "train.seed=0.5": ("train.seed=0.5: a whole number is expected",),
    "data.image_shape=3": ("a list is expected: 'data.image_shape=[3]'",),
    "model=3": ("model=3: model takes one choice",),
    "experiment=[digits_mlp,digits_cnn]": ("experiment takes one choice",),
    "~train.steps": ("~train.steps: keys cannot be deleted",),
    "hydra.mode=MULTIRUN": ("Hydra's settings are fixed",),
    "hydra.run.dir=elsewhere": ("Hydra's settings are fixed", "run.dir"),
    "data.root=${nothing}": ("nothing",),
    "optim.beta1=0.5": ("no meaning with optim=sgd", "optim=adamw"),
    "data.augment.cutout=28": ("cutout=28", "take less than 28"),
    "-z": ("-z is not a flag",),
    "train.global_batch_size=many": ("many", "global_batch_size"),
    "optim.peak_lr=-0.1": ("optim.peak_lr must be finite and > 0, got -0.1",),
    "devices=3": ("64", "world_size=3", "63, 66"),
    "train.epochs=0": ("train.epochs must be at least 1, got 0",),
    "train.epochs=null": ("train.epochs", "train.steps"),
    "precision=fp12": ("fp12", "fp64"),
    "precision.loss_scale.initial=8": ("loss_scale is null", "precision=fp16"),
    "federated.clients=8": ("federated is null", "federated=fedavg"),
    "parallel=ddp": ("ddp", "pmap"),
    "model.channels=[3]": ("model.channels of mlp",),
    "train.global_batch_size=99999": ("99999", "1438"),
    "--multirun": ("start a process per job", "train.seed=$seed", "study.precision="),
    "platform=gpu": ("platform=cpu",),
}


@pytest.mark.parametrize("override", BAD_OVERRIDES)
def test_a_bad_override_is_refused_in_one_error(forked, override, tmp_path):
    statuses, said = forked("jax", override, f"run.dir={tmp_path / 'run'}")
    assert statuses == [2], said
    assert said.count("\n") == said.count("error: ") == 1, said
    for word in BAD_OVERRIDES[override]:
        assert word in said
    assert not (tmp_path / "run").exists()


def test_torch_points_to_torchrun_for_several_devices(run_quickly, tmp_path):
    done = run_quickly(["launch/pytorch.py", "devices=2", f"run.dir={tmp_path / 'r'}"])
    refused(done, "torchrun --standalone --nproc-per-node=2")


def test_torch_refuses_pmap(run_quickly, tmp_path):
    done = run_quickly(["launch/pytorch.py", "parallel=pmap", f"run.dir={tmp_path}/r"])
    refused(done, "JAX's alone")


def test_a_batch_that_two_ranks_cannot_share_is_refused_once(run_quickly, tmp_path):
    done = run_quickly(
        [
            *torchrun(2, "launch/jax.py"),
            *("train.global_batch_size=33", f"run.dir={tmp_path / 'run'}"),
        ]
    )
    assert done.returncode != 0
    assert done.stderr.count("error: train.global_batch_size=33") == 1
    assert "nearest that do: 32, 34" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["world_sizes=[3]"], ("world_size=3", "63, 66")),
        (["world_sizes=[]"], ("world_sizes",)),
        (["world_sizes=2"], ("world_sizes must be a list", "got 2")),
        (["devices=2"], ("world_sizes",)),
        (["optim.update=false"], ("which need optim.update",)),
        (["a=", "b="], ("a= and b= are two run folders", "a= is missing")),
        (["a=none", "b=none"], ("a=none is not a folder; give the run folder",)),
        (["a=/", "b=/"], ("a=/ is not a run folder: no config.yaml; give the",)),
        (["jax_layouts=[threads]"], ("threads", "processes")),
    ],
)
def test_parity_refuses_before_anything_starts(run_quickly, overrides, words, tmp_path):
    done = run_quickly([PARITY, *overrides, f"run.dir={tmp_path / 'check'}"])
    refused(done, *words)
    assert not (tmp_path / "check").exists()


def test_parity_is_not_for_a_launcher_to_start(run_quickly, tmp_path):
    done = run_quickly([*torchrun(2, PARITY), f"run.dir={tmp_path / 'check'}"])
    assert done.stderr.count("error: parity starts its own processes") == 1
    assert not (tmp_path / "check").exists()


def test_a_home_is_understood_where_no_shell_expands_it(run_quickly, tmp_path):
    command = [JAX, "train.steps=2", "run.dir=~/a run"]
    assert run_quickly(command, HOME=tmp_path).returncode == 0
    assert (tmp_path / "a run" / "summary.json").exists()


def test_ctrl_c_saves_and_leaves_a_line_and_the_record(quick_python, root, tmp_path):
    command = [quick_python, str(root / JAX), "train.steps=1000000"]
    with subprocess.Popen(
        [*command, f"run.dir={tmp_path / 'run'}"],
        env=clean_environment() | NO_GPU,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell runs in the background has it ignored, and Python keeps that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        try:
            while not process.stdout.readline().startswith("step "):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err.startswith("stopped: asked to by SIGINT; saved after step ")
    assert err.count("\n") == 1
    summary = read_summary(tmp_path / "run")
    assert summary["status"] == "stopped"
    saved = tmp_path / "run" / "checkpoints" / f"step-{summary['steps']:08d}"
    assert (saved / "COMMITTED").exists()


def idx_files(folder: Path) -> None:
    """Sixteen images of either split in MNIST's own format."""
    folder.mkdir(parents=True)
    for split in "train", "t10k":
        images = np.zeros((16, 28, 28), np.uint8)
        header = np.array([0x803, 16, 28, 28], ">u4").tobytes()
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(16, dtype=np.uint8) % 10
        header = np.array([0x801, 16], ">u4").tobytes()
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def corrupt_header(folder):
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    return file.name


def truncate(folder):
    file = folder / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    return file.name


def label_out_of_range(folder):
    file = folder / "train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\x0a")
    return file.name


@pytest.mark.parametrize("harm", [corrupt_header, truncate, label_out_of_range])
def test_harmed_data_is_refused_by_its_file_name(run_quickly, harm, tmp_path):
    idx_files(tmp_path / "data" / "mnist")
    name = harm(tmp_path / "data" / "mnist")
    arguments = ["experiment=mnist_mlp", "train.global_batch_size=8"]
    done = run_quickly(
        [JAX, *arguments, f"data.root={tmp_path}/data", f"run.dir={tmp_path}/run"]
    )
    refused(done, name)
    assert not (tmp_path / "run").exists()


def test_other_images_are_trained_on_by_their_own_name_and_not_by_mnist_s(
    run_quickly, tmp_path
):
    folder = tmp_path / "data" / "mnist"
    idx_files(folder)
    arguments = ["experiment=mnist_mlp", "train.global_batch_size=8", "train.steps=2"]
    root = [f"data.root={tmp_path}/data", f"run.dir={tmp_path}/run"]
    refused(run_quickly([JAX, *arguments, *root]), "not that of mnist as published")
    assert not (tmp_path / "run").exists()
    on_purpose = ["data=custom", f"data.files={folder}"]
    done = run_quickly([JAX, *arguments, *root, *on_purpose])
    assert done.returncode == 0, done.stderr
    assert read_summary(tmp_path / "run")["data"] == "custom"


def test_missing_data_offline_says_which_files_to_put_where(run_quickly, tmp_path):
    nowhere = "http://127.0.0.1:9"  # a proxy that answers no one
    done = run_quickly(
        [
            *("launch/jax.py", "experiment=mnist_mlp"),
            *(f"data.root={tmp_path}/data", f"run.dir={tmp_path}/run"),
        ],
        http_proxy=nowhere,
        https_proxy=nowhere,
    )
    refused(done, "train-images-idx3-ubyte", str(tmp_path / "data"))
    assert done.stderr.count("error: ") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_finished_run_is_left_alone(run_quickly, tmp_path):
    command = [JAX, "train.steps=2", f"run.dir={tmp_path / 'run'}"]
    assert run_quickly(command).returncode == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    refused(run_quickly(command), "already holds a finished run")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_folder_without_write_permission_is_refused(run_quickly, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    done = run_quickly([JAX, f"run.dir={file / 'run'}"])
    refused(done, "cannot be made")
    if os.geteuid() == 0:  # root may write anywhere but to what is mounted read-only
        done = run_quickly([JAX, "run.dir=/proc/duet"])
        refused(done, "/proc/duet")


@pytest.mark.quick_in("torch")
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("processes", exhaustive_but([2], [1, 2]))
def test_a_full_disk_stops_the_run_and_keeps_what_was_written(
    forked, framework, processes, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = ["-o", "size=128k", "tmpfs"]
    subprocess.run(["mount", "-t", "tmpfs", *size, disk], check=True)
    try:
        given = "train.epochs=200", f"run.dir={disk / 'run'}"
        statuses, said = forked(framework, *given, processes=processes)
        assert statuses == [2] * processes, said
        assert said.count("error: cannot write") == 1, said
        assert "No space left on device" in said
        rows = (disk / "run" / "metrics.jsonl").read_text().splitlines()
        assert len(rows) > 100
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.quick_in("jax")
@pytest.mark.parametrize("processes", exhaustive_but([2], [1, 2]))
def test_a_loss_that_is_not_finite_stops_every_rank_and_keeps_the_record(
    forked, framework, processes, tmp_path
):
    given = "optim.peak_lr=1e30", f"run.dir={tmp_path / 'run'}"
    statuses, said = forked(framework, *given, processes=processes)
    assert statuses == [1] * processes, said
    assert said.count("error: the loss is") == 1, said
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 12  # the first window's 11 steps, half an epoch's, and itself
    summary = yaml.safe_load((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert "step" in summary["error"]
    for rank in range(processes):
        log = (tmp_path / "run" / "logs" / f"rank{rank}.log").read_text()
        assert "the loss is" in log


@pytest.mark.skipif(not FASHION.exists(), reason=f"needs {FASHION}")
def test_acquiring_by_hand_says_where_the_arrays_are(run_python, tmp_path):
    done = run_python(["-m", "data.acquire", "fashion_mnist", "--root", tmp_path])
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout


@pytest.mark.quick_in("torch")
def test_an_error_that_one_rank_alone_meets_ends_all_and_is_said(
    run_quickly, quick_python, script, fashion_mnist, tmp_path
):
    # As if each node had a disk of its own, and only rank 0's had been filled.
    shell = f'DUET_DATA={tmp_path}/$RANK exec "$@"'
    train = [quick_python, script, "experiment=fashion_mlp", "train.steps=2"]
    done = run_quickly(
        [
            *(*torchrun(2, "--no-python"), "bash", "-c", shell, "bash"),
            *(*train, f"run.dir={tmp_path / 'run'}"),
        ],
        timeout=120,
    )
    assert done.returncode == 1
    assert "error: rank 1: " in done.stderr
    assert str(tmp_path / "1") in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_other_ranks_wait_for_an_acquisition_that_takes_its_time(
    run_quickly, root, fashion_mnist, tmp_path
):
    shutil.copytree(
        root,
        tmp_path / "copy",
        ignore=shutil.ignore_patterns(".git", ".venv*", "runs", "tests", "__pycache__"),
    )
    acquire = tmp_path / "copy" / "data" / "acquire.py"
    # Longer than the 30 s that gloo gives JAX's processes to find each other.
    acquire.write_text("import time\ntime.sleep(35)\n" + acquire.read_text())
    done = run_quickly(
        [
            *torchrun(2, str(tmp_path / "copy" / JAX)),
            *("experiment=fashion_mlp", "train.steps=2", f"run.dir={tmp_path / 'run'}"),
        ],
        cwd=tmp_path / "copy",
        DUET_DATA=tmp_path / "data",
    )
    assert done.returncode == 0, done.stderr


def test_a_reader_who_leaves_does_not_end_the_run(quick_python, root, tmp_path):
    command = f"{quick_python} {JAX} train.steps=100 run.dir={tmp_path}/run"
    subprocess.run(
        ["bash", "-c", f"{command} | head -1"],
        cwd=root,
        env=clean_environment() | NO_GPU,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=300,
    )
    assert "finished" in (tmp_path / "run" / "summary.json").read_text()


def test_a_terminal_without_our_letters_shows_others(run_python, tmp_path):
    done = run_python(
        ["launch/jax.py", "train.steps=2", f"run.dir={tmp_path / 'run'}"],
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0, done.stderr
    assert "run folder" in done.stdout
