"""The run folder holds the whole run, and every way it can go wrong says so."""

import contextlib
import json
import logging
import math
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from recipe.batch_plan import BatchPlan
from recipe.config import recipe_hash
from recipe.errors import DivergedError, RecordError
from recipe.weights import Weights
from record.clock import Times
from record.folder import create_folder
from record.recorder import Recorder
from record.run import read_rows, read_run, read_summary
from report.analysis.runs import read_timed_run
from report.analysis.timings import read_between_steps
from tests.record.runs import (
    ENVIRONMENT,
    LOSSES,
    METADATA,
    NORMS,
    SCORES,
    WEIGHTS,
    recipe,
    write_run,
)

MACHINE = {"driver": "580.65.06", "gpus": [], "links": []}
FILES = {
    "config.yaml",
    "environment.json",
    "final.safetensors",
    "logs/rank0.log",
    "metrics.jsonl",
    "summary.json",
}


# What the second schema brought.
LATER = ("measured", "cores", "omp_num_threads", "compile_cached")


def files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in found}


def strict(text: str):
    """JSON as the standard has it, without Python's NaN and Infinity."""

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A new run folder."""
    return create_folder(recipe(tmp_path / "run"), "jax")


@pytest.fixture
def written(folder) -> Path:
    """The folder of a run that went well."""
    write_run(folder)
    return folder


# What is written


def test_a_run_leaves_these_files_and_nothing_else(written):
    assert files(written) == FILES


def test_a_run_is_read_as_it_was_written(written):
    run = read_run(written)
    assert run.config == recipe(written)
    assert run.environment == ENVIRONMENT
    for name, array in WEIGHTS.items():
        assert run.weights[name].dtype == array.dtype
        assert run.weights[name].tobytes() == array.tobytes()
    assert [row["kind"] for row in run.rows] == [
        *("step", "step", "window", "evaluation"),
    ] * 2


def test_rows_say_what_happened_from_step_1_and_epoch_1(written):
    run = read_run(written)
    steps, windows = run.of_kind("step"), run.of_kind("window")
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert [row["epoch"] for row in steps] == [1, 1, 2, 2]
    assert [row["examples"] for row in steps] == [8, 16, 24, 32]
    assert [row["loss"] for row in steps] == np.float32(LOSSES).tolist()
    assert [row["learning_rate"] for row in steps] == [0.1, 0.05] * 2
    assert [row["loss_scale"] for row in steps] == [8.0, 4.0] * 2
    assert [row["skipped"] for row in steps] == [True, False] * 2
    assert windows[1] == {
        **{"kind": "window", "step": 4, "steps": 2, "seconds": 0.5},
        **{"step_seconds": 0.25, "images_per_second": 32.0, "warmup": False},
        **{"rank_seconds": [0.25, 0.5], "data_seconds": 0.125},
        **{"dispatch_seconds": 0.0625, "measured": False},
    }
    assert [row["warmup"] for row in windows] == [True, False]
    scores = {k: v for k, v in SCORES.items() if k != "confusion"}
    assert run.of_kind("evaluation")[1] == {
        **{"kind": "evaluation", "step": 4, "epoch": 2},
        **scores,
    }


def test_a_round_of_local_sgd_stands_behind_the_step_that_it_followed(tmp_path):
    folder = create_folder(recipe(tmp_path / "run"), "jax")
    of_replicas = np.array([[2.5, 9.0], [2.5, 7.0]])  # norm, squared distance
    write_run(folder, rounds=[(1, 0, of_replicas), (2, 0, np.ones((2, 2)))])
    rows = read_rows(folder)
    assert [(row["kind"], row["step"]) for row in rows][:5] == [
        *(("step", 1), ("round", 1), ("step", 2), ("round", 2), ("window", 2)),
    ]
    payload = 4 * 2570  # of METADATA's four devices
    assert rows[1] == {
        **{"kind": "round", "step": 1, "fragment": 0, "bytes": 2 * 3 * payload // 4},
        **{"pseudo_gradient_norm": 2.5, "spread": np.sqrt(8)},
    }


def test_the_summary_is_what_the_run_came_to(written):
    run = recipe(written)
    assert read_summary(written) == {
        "schema_version": 3,
        "status": "finished",
        "error": None,
        "framework": "jax",
        "experiment": run.name,
        "data": run.data.name,
        "model": run.model.name,
        "parallel": "dp",
        "precision": "fp32",
        "deterministic": False,
        "compiled": True,
        "ablated": [],
        "resumed_anyway": [],
        "world_size": 4,
        "processes": 2,
        "global_batch_size": 8,
        "parameters": 2570,
        "new_head": [],
        "steps": 4,
        "skipped_steps": 2,
        "images_per_second": {"median": 32.0, "windows": [32.0]},
        "compile_seconds": 3.25,
        "compile_cached": False,
        "startup_seconds": 1.5,
        "test": SCORES,
        "peak_memory_bytes": 2**30,
        "data_fingerprint": "5e" * 32,
        "config_hash": recipe_hash(run),
        "run_dir": str(written),
    }


def test_every_file_is_strict_json_though_numbers_were_not_finite(folder):
    write_run(folder, scores=SCORES | {"loss": math.nan})
    for name in "summary.json", "environment.json":
        strict((folder / name).read_text())
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        strict(line)
    with pytest.raises(ValueError, match="NaN is not JSON"):
        strict(json.dumps({"loss": math.nan}))


def test_numbers_that_are_not_finite_are_given_back(folder):
    write_run(folder, scores=SCORES | {"loss": math.nan})
    run = read_run(folder)
    norms = [row["grad_norm"] for row in run.of_kind("step")]
    np.testing.assert_array_equal(norms, NORMS)
    assert math.isnan(run.of_kind("evaluation")[0]["loss"])


def test_those_of_the_summary_too(folder):
    write_run(folder, scores=SCORES | {"loss": math.nan})
    assert math.isnan(read_summary(folder)["test"]["loss"])


def test_those_in_a_list_too(written):
    speed = {"median": "Infinity", "windows": ["Infinity", 1.5]}
    summary = read_summary(written) | {"images_per_second": speed}
    (written / "summary.json").write_text(json.dumps(summary))
    read = read_summary(written)["images_per_second"]
    assert read == {"median": math.inf, "windows": [math.inf, 1.5]}


def test_rows_can_be_read_during_the_run(folder, monkeypatch):
    seen = []
    evaluation = Recorder.evaluation

    def spy(self, window, metrics):
        seen.append([row["step"] for row in read_rows(folder)])
        evaluation(self, window, metrics)

    monkeypatch.setattr(Recorder, "evaluation", spy)
    write_run(folder)
    assert seen == [[1, 2, 2], [1, 2, 2, 2, 3, 4, 4]]


def test_other_ranks_write_nothing_but_their_log(folder, capsys):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    write_run(folder, rank=1)
    assert files(folder) == {"logs/rank1.log", *before}
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert capsys.readouterr().out == ""


def test_final_weights_appear_whole_or_not_at_all(folder, monkeypatch):
    final, partial = folder / "final.safetensors", folder / "final.safetensors.partial"
    seen = []
    fsync = os.fsync

    def spy(descriptor):
        if partial.exists():
            seen.append((final.exists(), partial.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_run(folder)
    assert seen == [(False, final.read_bytes())]


def test_a_recorder_leaves_the_logger_as_it_was(folder):
    logger = logging.getLogger("duet")
    handlers = list(logger.handlers)
    write_run(folder)
    assert logger.handlers == handlers


# A run that goes wrong


@pytest.mark.parametrize("loss, name", [(math.nan, "nan"), (math.inf, "inf")])
@pytest.mark.parametrize("rank", [0, 1])
def test_divergence_stops_every_rank_and_names_the_first_step(folder, rank, loss, name):
    said = f"the loss is {name} at step 3, learning rate 0.1: "
    with pytest.raises(DivergedError, match=said):
        write_run(folder, rank=rank, losses=[2.5, 2.0, loss, math.nan])
    assert said in (folder / "logs" / f"rank{rank}.log").read_text()


def test_the_record_of_a_diverged_run_keeps_every_row(folder):
    with pytest.raises(DivergedError) as stopped:
        write_run(folder, losses=[2.5, math.nan, 1.5, 1.0])
    rows = read_rows(folder)
    losses = [row["loss"] for row in rows if row["kind"] == "step"]
    np.testing.assert_array_equal(losses, [2.5, math.nan])
    assert rows[-1]["kind"] == "window"
    summary = read_summary(folder)
    assert summary["status"] == "diverged"
    assert summary["error"] == str(stopped.value)
    assert (summary["steps"], summary["test"]) == (2, None)
    assert files(folder) == FILES - {"final.safetensors"}


@pytest.fixture(params=[math.nan, math.inf, -math.inf], ids=str)
def broken(request) -> Weights:
    """Weights of which one number is not finite."""
    bias = WEIGHTS["dense.0.bias"].copy()
    bias[-1] = request.param
    return {**WEIGHTS, "dense.0.bias": bias}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_last_step_that_diverged_stops_every_rank_by_its_weights(
    folder, rank, broken
):
    said = "dense.0.bias is not finite after the last step, 4; the record is kept"
    with pytest.raises(DivergedError, match=said):
        write_run(folder, rank=rank, weights=broken)
    assert said in (folder / "logs" / f"rank{rank}.log").read_text()


def test_the_record_of_a_last_step_that_diverged_is_whole(folder, broken):
    with pytest.raises(DivergedError) as stopped:
        write_run(folder, weights=broken)
    summary = read_summary(folder)
    assert summary["status"] == "diverged"
    assert summary["error"] == str(stopped.value)
    assert (summary["steps"], summary["test"]) == (4, SCORES)
    assert summary["peak_memory_bytes"] == 2**30
    assert files(folder) == FILES
    saved = load_file(folder / "final.safetensors")
    np.testing.assert_equal(saved, broken)
    assert len(read_rows(folder)) == 8


@pytest.mark.parametrize(
    "error, told",
    [
        (ZeroDivisionError("a bug"), "a bug"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_whatever_stops_a_run_is_in_its_summary_and_log(folder, error, told):
    plan = BatchPlan.of(recipe(folder), examples=16)
    with pytest.raises(type(error)), Recorder(folder, recipe(folder), plan, METADATA):
        raise error
    summary = read_summary(folder)
    assert (summary["status"], summary["error"]) == ("failed", told)
    log = (folder / "logs" / "rank0.log").read_text()
    assert f"stopped: {told}" in log
    assert ("Traceback" in log) == isinstance(error, ZeroDivisionError)


def test_what_was_foreseen_leaves_no_traceback(folder):
    with pytest.raises(DivergedError):
        write_run(folder, losses=[math.nan] * 4)
    assert "Traceback" not in (folder / "logs" / "rank0.log").read_text()


@pytest.fixture
def full_disk(folder) -> Path:
    """A run folder with no space for `metrics.jsonl`."""
    if not Path("/dev/full").is_char_device():
        pytest.skip("needs /dev/full, a disk that is always full")
    (folder / "metrics.jsonl").symlink_to("/dev/full")
    return folder


def test_a_full_disk_does_not_raise_where_the_other_ranks_would_continue(full_disk):
    run = recipe(full_disk)
    plan = BatchPlan.of(run, examples=16)
    with Recorder(full_disk, run, plan, METADATA) as recorder:
        assert recorder.failure is None
        recorder.window(
            plan.windows(2, 1)[0],
            Times([1.0], 0.5, 0.5),
            losses=np.ones(2),
            learning_rates=[0.1, 0.1],
            grad_norms=np.ones(2),
            loss_scales=np.ones(2),
            skipped=np.zeros(2, bool),
        )
        recorder.evaluation(plan.windows(2, 1)[0], SCORES)
        assert "No space left" in str(recorder.failure)


def test_a_full_disk_stops_rank_0_when_the_ranks_have_agreed(full_disk):
    said = "cannot write .*/run: No space left .*; free some space or choose another"
    with pytest.raises(RecordError, match=said) as e:
        write_run(full_disk)
    summary = read_summary(full_disk)
    assert (summary["status"], summary["error"]) == ("failed", str(e.value))
    assert summary["steps"] == 2  # the window that could not be written is the last


def test_a_full_disk_at_rank_0_stops_the_others_with_a_hint_where_to_look(folder):
    plan = BatchPlan.of(recipe(folder), examples=16)
    metadata = replace(METADATA, rank=1)
    with Recorder(folder, recipe(folder), plan, metadata) as recorder:
        recorder.stop_if(False)
        with pytest.raises(RecordError, match=r"rank 0 could not record; .*rank0\.log"):
            recorder.stop_if(True)


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The system refuses to write more to a file, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_weights_that_do_not_fit_fail_the_run_and_leave_no_part_of_themselves(folder):
    with (
        pytest.raises(
            RecordError, match="cannot write .*: File too large.*; free some"
        ),
        files_no_larger_than(8192),  # the weights take 10 kB, nothing else above 2
    ):
        write_run(folder)
    assert files(folder) == FILES - {"final.safetensors"}
    assert read_summary(folder)["status"] == "failed"
    assert len(read_rows(folder)) == 8


def test_a_run_whose_weights_do_not_fit_never_says_it_finished(folder):
    plan = BatchPlan.of(recipe(folder), examples=16)
    with Recorder(folder, recipe(folder), plan, METADATA) as recorder:
        with files_no_larger_than(8192):
            recorder.trained({"weights": WEIGHTS}, peak_memory_bytes=0)
        recorder.finish()
        assert "File too large" in str(recorder.failure)
        assert "summary.json" not in files(folder)


def test_a_folder_that_vanished_is_a_failure_too(tmp_path):
    said = "No such file or directory .*; choose another run.dir"
    with pytest.raises(RecordError, match=said):
        write_run(tmp_path / "gone")


# What is refused when read


def test_a_record_that_was_changed_afterwards_is_not_read(folder):
    write_run(folder)
    for name, old, new, words in (
        ("config.yaml", "\n  seed: 0", "\n  seed: 1", "their hashes differ"),
        ("metrics.jsonl", '"step": 2,', '"step": 3,', "does not hold steps 1 to 4"),
        ("summary.json", '"accuracy"', '"acuracy"', "test lacks accuracy"),
    ):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
        with pytest.raises(RecordError, match=words):
            read_run(folder)
        (folder / name).write_text(text)
    read_run(folder)


@pytest.mark.parametrize(
    "error, status",
    [
        (DivergedError("the loss is nan"), "diverged: the loss is nan$"),
        (ZeroDivisionError("a bug"), "failed: a bug$"),
        (KeyboardInterrupt(), "failed: interrupted$"),
    ],
)
def test_a_run_that_did_not_finish_is_refused_with_its_status(folder, error, status):
    plan = BatchPlan.of(recipe(folder), examples=16)
    recorder = Recorder(folder, recipe(folder), plan, METADATA)
    with pytest.raises(type(error)), recorder:
        recorder.trained({"weights": WEIGHTS}, peak_memory_bytes=0)
        recorder.finish()
        raise error
    with pytest.raises(RecordError, match=f"/run holds a run that {status}"):
        read_run(folder)
    assert files(folder) == FILES  # its status alone is why


def damage(file: Path, number: int, line: str) -> None:
    lines = file.read_text().splitlines()
    lines[number - 1] = line
    file.write_text("\n".join(lines) + "\n")


STEP = {
    **{"kind": "step", "step": 2, "epoch": 1, "loss": 2.0, "learning_rate": 0.1},
    **{"grad_norm": 1.0, "loss_scale": 1.0, "skipped": False, "examples": 16},
}


@pytest.mark.parametrize(
    "line, told",
    [
        (json.dumps(STEP)[:40], "is not JSON"),
        ("", "is not JSON"),
        (
            "[]",
            r"is of unknown kind \(step, window, round, federated, .*resume\)",
        ),
        (json.dumps(STEP | {"kind": "stride"}), "is of unknown kind"),
        (json.dumps({k: STEP[k] for k in STEP if k != "loss"}), "lacks loss"),
        (json.dumps(STEP | {"perplexity": 9.0}), "has unknown perplexity"),
        (json.dumps(STEP | {"step": "2"}), ": step is '2', expected int"),
    ],
)
def test_a_damaged_row_is_refused_with_line_and_field(written, line, told):
    damage(written / "metrics.jsonl", 2, line)
    with pytest.raises(RecordError, match=rf"metrics\.jsonl line 2:? ?{told}"):
        read_run(written)


def test_a_row_that_is_whole_is_not_refused(written):
    damage(written / "metrics.jsonl", 2, json.dumps(STEP))
    assert read_run(written).rows[1] == STEP


def test_an_incomplete_last_row_is_refused(written):
    file = written / "metrics.jsonl"
    os.truncate(file, file.stat().st_size - 10)
    with pytest.raises(RecordError, match="line 8 is not JSON"):
        read_rows(written)


@pytest.mark.parametrize(
    "text, told",
    [
        ("{", "is not JSON"),
        ("[]", "holds no object"),
        ("{}", "lacks ablated, compile_seconds, compiled"),
    ],
)
def test_a_damaged_summary_is_refused(written, text, told):
    (written / "summary.json").write_text(text)
    with pytest.raises(RecordError, match=rf"summary\.json {told}"):
        read_run(written)


def test_another_versions_schema_is_refused_by_number(written):
    summary = read_summary(written) | {"schema_version": 4}
    (written / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RecordError, match="has schema 4; this version of Duet reads 1"):
        read_run(written)


def test_what_the_first_schema_wrote_is_read_as_todays(written):
    before = read_run(written)
    for name, change in ("summary", {"schema_version": 1}), ("environment", {}):
        file = written / f"{name}.json"
        held = json.loads(file.read_text()) | change
        file.write_text(json.dumps({k: v for k, v in held.items() if k not in LATER}))
    rows = map(json.loads, (written / "metrics.jsonl").read_text().splitlines())
    old = [{k: v for k, v in row.items() if k not in LATER} for row in rows]
    lines = "".join(json.dumps(row) + "\n" for row in old)
    (written / "metrics.jsonl").write_text(lines)
    assert "measured" not in lines
    assert read_run(written).rows == before.rows
    assert read_run(written).environment["cores"] is None


def test_speed_is_that_of_the_steps_timed_after_the_training(written, tmp_path):
    folder = create_folder(recipe(tmp_path / "measured"), "jax")
    write_run(folder, measured=(5, 7))
    run, trained = read_run(folder), read_run(written)
    assert [row["step"] for row in run.of_kind("window")] == [2, 4, 7, 9]
    speed = {"median": 160.0, "windows": [160.0, 160.0]}
    assert run.summary["images_per_second"] == speed
    assert trained.summary["images_per_second"]["median"] == 32.0
    for kind in "step", "evaluation":
        assert run.of_kind(kind) == trained.of_kind(kind)
    assert run.summary["steps"] == trained.summary["steps"] == 4
    timed = read_timed_run(folder)
    assert timed.windows == (160.0, 160.0)
    found = read_between_steps(folder, timed.windows)
    assert [window.data_seconds for window in found.windows] == [0.025] * 2
    assert found.evaluated.seconds == (0.5, 1.0)  # of the training alone


def test_an_average_and_the_weights_it_is_of_are_read_and_each_is_missed(folder):
    average = {name: 2 * array for name, array in WEIGHTS.items()}
    write_run(folder, average=average)
    run = read_run(folder)
    assert run.weights.keys() == {*WEIGHTS, *(f"average of {n}" for n in WEIGHTS)}
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(run.weights[name], array)
        np.testing.assert_array_equal(run.weights[f"average of {name}"], 2 * array)
    for file in "last.safetensors", "final.safetensors":
        (folder / file).unlink()
        with pytest.raises(RecordError, match=rf"/run/{file}: No such file"):
            read_run(folder)


def test_truncated_weights_are_refused(written):
    file = written / "final.safetensors"
    os.truncate(file, file.stat().st_size - 10)
    with pytest.raises(RecordError, match=r"final\.safetensors: "):
        read_run(written)


TEXTS = ["config.yaml", "environment.json", "metrics.jsonl", "summary.json"]


@pytest.mark.parametrize("name", TEXTS)
def test_a_folder_without_one_of_its_files_is_refused_by_name(written, name):
    (written / name).unlink()
    missing = rf"cannot read .*/run/{name}: No such file or directory"
    said = rf"{missing}; is it in a run folder\?$"  # which names the path once
    with pytest.raises(RecordError, match=said):
        read_run(written)


def test_a_folder_without_weights_is_refused_by_their_name(written):
    (written / "final.safetensors").unlink()
    with pytest.raises(RecordError, match="/run/final.safetensors: No such file"):
        read_run(written)


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_no_text_is_refused_by_name(written, name):
    (written / name).write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match=f"/run/{name} is not UTF-8: "):
        read_run(written)


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("config.yaml", "train: {seed", ": while parsing"),
        ("config.yaml", "unknown: 1\n", ": Key 'unknown' not in 'Config'"),
        ("config.yaml", "name: x\n", ": the config leaves data, model, "),
        ("environment.json", "{", " is not JSON: "),
        ("environment.json", "[]", " holds no object$"),
        ("environment.json", "{}", " lacks command, cpu_count, "),
        (
            "environment.json",
            json.dumps(ENVIRONMENT | {"memory_bytes": "all"}),
            ": memory_bytes is 'all', expected int$",
        ),
        (
            "environment.json",
            json.dumps(ENVIRONMENT | {"gpu": None}),
            " has unknown gpu$",
        ),
        (
            "environment.json",
            json.dumps(ENVIRONMENT | {"gpus": {**MACHINE, "gpus": [{}]}}),
            ", a GPU lacks max_sm_clock_mhz, ",
        ),
        (
            "environment.json",
            json.dumps(ENVIRONMENT | {"gpus": {**MACHINE, "links": [1]}}),
            ", gpus: links holds no rows$",
        ),
    ],
)
def test_a_garbled_file_is_refused_by_name(written, name, content, told):
    (written / name).write_text(content)
    with pytest.raises(RecordError, match=f"/run/{name}{told}"):
        read_run(written)


def test_an_environment_that_is_whole_is_not_refused(written):
    other = ENVIRONMENT | {"memory_bytes": 1, "cpu_count": None, "gpus": MACHINE}
    (written / "environment.json").write_text(json.dumps(other))
    assert read_run(written).environment == other
