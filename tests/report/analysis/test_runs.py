"""Run folders in any state: read, or skipped by name with the reason."""

import json
import os
import shutil

import pytest

from recipe.errors import RecordError
from report.analysis.runs import find, read_timed_run, read_timed_runs


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "study" / "run")


def change(folder, name="summary.json", **fields):
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_run_folder_gives_its_timing(folder):
    run = read_timed_run(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert list(run.windows) == summary["images_per_second"]["windows"]
    assert run.images_per_second == summary["images_per_second"]["median"]
    for name in (
        "framework",
        "world_size",
        "global_batch_size",
        "config_hash",
        "precision",
    ):
        assert getattr(run, name) == summary[name]
    assert (run.global_batch_size, run.world_size, run.grad_accum_steps) == (8, 4, 1)
    environment = json.loads((folder / "environment.json").read_text())
    assert run.device == environment["processor"]  # on a CPU


def test_what_an_ablation_disables_is_known(folder):
    assert read_timed_run(folder).ablated == ()
    change(folder, ablated=["parallel.grad_sync"])
    assert read_timed_run(folder).ablated == ("parallel.grad_sync",)


def test_micro_batches_are_known_from_the_config(folder):
    assert read_timed_run(folder).grad_accum_steps == 1
    config = folder / "config.yaml"
    config.write_text(
        config.read_text().replace("grad_accum_steps: 1", "grad_accum_steps: 2")
    )
    assert read_timed_run(folder).grad_accum_steps == 2


@pytest.mark.parametrize(
    ("devices", "device"),
    [
        (["NVIDIA H100 80GB HBM3 1"], "NVIDIA H100 80GB HBM3"),
        (["NVIDIA H100 80GB HBM3"], "NVIDIA H100 80GB HBM3"),
        (["Tesla V100-SXM2-16GB"], "Tesla V100-SXM2-16GB"),
        (["NVIDIA GeForce RTX 4090 0"], "NVIDIA GeForce RTX 4090"),
        ([], "unknown"),
    ],
)
def test_a_device_is_known_by_its_kind_not_by_its_number(folder, devices, device):
    change(folder, "environment.json", devices=devices)
    assert read_timed_run(folder).device == device


def cut(folder):
    file = folder / "metrics.jsonl"
    os.truncate(file, file.stat().st_size - 10)


def cut_a_row(folder):
    file = folder / "metrics.jsonl"
    rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join(row for row in rows if json.loads(row)["step"] < 4))


def perturb(folder):
    file = folder / "config.yaml"
    text = file.read_text()
    assert text.count("  perturb_seed: 0\n") == 1
    file.write_text(text.replace("  perturb_seed: 0\n", "  perturb_seed: 3\n"))


# What no run ends with, each in its summary, and what is said of it.
NONSENSE = {
    "is 0, expected 1 or more": [
        {name: 0}
        for name in ("world_size", "processes", "global_batch_size", "parameters")
    ],
    "world_size is -4, expected 1": [{"world_size": -4}],
    "8 processes for a world size of 4": [{"processes": 8}],
    "is 'mxnet', expected one of torch, jax": [{"framework": "mxnet"}],
    "is nan, expected a finite number": [
        {name: "NaN"} for name in ("compile_seconds", "startup_seconds")
    ],
    "is beyond 64 bits": [{"peak_memory_bytes": 10**400}],
    "holds no rates": [
        {"images_per_second": {"windows": windows}}
        for windows in ([10**400], ["NaN"], [True], 3.0, "32")
    ],
}


@pytest.mark.parametrize(
    ("told", "fields"), [(told, f) for told, each in NONSENSE.items() for f in each]
)
def test_a_number_that_no_run_ends_with_is_refused(folder, told, fields):
    change(folder, **fields)
    with pytest.raises(RecordError, match=told):
        read_timed_run(folder)


def grad_accum_steps(number):
    def harm(folder):
        file = folder / "config.yaml"
        text = file.read_text()
        assert text.count("  grad_accum_steps: 1\n") == 1
        file.write_text(
            text.replace("  grad_accum_steps: 1\n", f"  grad_accum_steps: {number}\n")
        )

    return harm


DAMAGE = {
    "no micro-batch": (
        grad_accum_steps(0),
        "grad_accum_steps is 0, expected 1 or more",
    ),
    "endless digits": (grad_accum_steps("1" * 5000), "cannot read .*config"),
    "a control": (perturb, r"is a parity check's control \(train\.perturb_seed=3\)"),
    "no config": (lambda f: (f / "config.yaml").unlink(), "cannot read .*config"),
    "a truncated row": (cut, r"metrics\.jsonl is truncated: .* row of step 4"),
    "rows missing": (cut_a_row, r"metrics\.jsonl is truncated"),
    "no rows": (lambda f: (f / "metrics.jsonl").write_text(""), "is truncated"),
    "no metrics": (lambda f: (f / "metrics.jsonl").unlink(), "cannot read .*metrics"),
    "killed": (lambda f: (f / "summary.json").unlink(), "the run was killed"),
    "no JSON": (lambda f: (f / "summary.json").write_text("{"), "is not JSON"),
    "failed": (
        lambda f: change(f, status="failed", error="disk full"),
        "holds a run that failed: disk full",
    ),
    "no window": (
        lambda f: change(f, images_per_second={"median": None, "windows": []}),
        "no timed window .*; train for more steps",
    ),
    "no rate": (
        lambda f: change(f, images_per_second={"median": 0, "windows": [0.0]}),
        "holds no rates",
    ),
    "two recipes": (
        lambda f: change(f, resumed_anyway=["train.seed is 1, was 0"]),
        r"mixes two recipes \(run.resume_anyway\): train.seed is 1, was 0$",
    ),
    "no environment": (lambda f: (f / "environment.json").unlink(), "environment"),
}


@pytest.mark.parametrize("harm", DAMAGE)
def test_a_damaged_folder_is_skipped_by_name_and_the_others_are_read(folder, harm):
    good = shutil.copytree(folder, folder.with_name("good"))
    damage, told = DAMAGE[harm]
    damage(folder)
    with pytest.raises(RecordError, match=told) as refused:
        read_timed_run(folder)
    runs, skipped = read_timed_runs([folder, good])
    assert [run.path for run in runs] == [good]
    said = str(refused.value).removeprefix(f"{folder} ").removeprefix(f"{folder}: ")
    assert [(out.name, out.reason) for out in skipped] == [(str(folder), said)]


def test_a_copied_run_is_no_repeat(folder):
    copy = shutil.copytree(folder, folder.with_name("run-copy"))
    runs, (out,) = read_timed_runs([folder, copy])
    assert [run.path for run in runs] == [folder]
    assert (out.name, out.reason) == (str(copy), f"is a copy of {folder}")


def test_runs_are_found_below_a_folder_once_however_often_it_is_given(folder):
    study = folder.parent
    (folder / "wandb" / "files").mkdir(parents=True)
    (folder / "wandb" / "files" / "config.yaml").touch()  # W&B's, of no run folder
    link = study.with_name("link")
    link.symlink_to(study)
    assert find([study, folder, link]).runs == [folder]


def test_links_are_followed_to_each_folder_once_and_out_of_no_circle(folder, tmp_path):
    study, elsewhere = folder.parent, tmp_path / "elsewhere"
    other = shutil.copytree(folder, elsewhere / "other")
    (study / "a link").symlink_to(folder)
    (study / "another").symlink_to(other)
    (study / "circle").symlink_to(study)
    (elsewhere / "back").symlink_to(study)
    (study / "far").symlink_to(elsewhere)
    assert find([study]).runs == [study / "another", folder]


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    locked, scan = folder.with_name("locked"), os.scandir
    locked.mkdir()

    def scandir(path):
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied", str(locked))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find([folder.parent])
    assert found.runs == [folder]
    (out,) = found.skipped
    assert (out.name, out.reason) == (str(locked), "cannot be read: Permission denied")


def test_an_empty_folder_is_refused_by_name(tmp_path, folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RecordError, match=f"{empty} holds no run folder; give folders"):
        find([folder, empty])
    with pytest.raises(RecordError, match="absent is not a folder"):
        find([tmp_path / "absent"])


def test_many_folders_are_read_fast(run_python):
    done = run_python(["benchmarks/report_rows.py", "200"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("200 run folders -> 40 rows in ")
