"""A checkpoint is whole, verified and the newest, or it is not taken."""

import contextlib
import errno
import hashlib
import json
import math
import os
import subprocess
from pathlib import Path

import pytest

from recipe.errors import RecordError
from record.checkpoint import (
    CheckpointWriter,
    newest_checkpoint,
    read_checkpoint,
)
from tests.record.checkpoints import (
    CALLS,
    TEST,
    assert_same,
    checkpoint,
    cut,
    steps,
    vouch,
)


def scored(step: int, accuracy: float | None, loss: float = 1.0, at: int | None = None):
    test = {**TEST, "step": step if at is None else at}
    return checkpoint(step, test={**test, "accuracy": accuracy, "loss": loss})


@pytest.fixture
def writer(tmp_path):
    with CheckpointWriter(tmp_path, keep=3) as writer:
        yield writer


# What is written is read


def test_a_checkpoint_is_read_as_it_was_written(writer):
    path = writer.save(checkpoint())
    assert_same(read_checkpoint(path), checkpoint())
    assert {file.name for file in path.iterdir()} == {
        *("weights.safetensors", "momentum.safetensors", "manifest.json", "COMMITTED"),
    }


def test_numbers_that_json_lacks_are_given_back(writer):
    test = {**TEST, "loss": math.nan}
    path = writer.save(checkpoint(test=test, state={"loss_scale": math.inf}))
    json.loads((path / "manifest.json").read_text(), parse_constant=pytest.fail)
    read = read_checkpoint(path)
    assert read.test is not None and math.isnan(read.test["loss"])
    assert read.state == {"loss_scale": math.inf}


def test_the_newest_is_taken(writer, tmp_path):
    for step in 10, 30, 20:
        writer.save(checkpoint(step))
    newest, skipped = newest_checkpoint(tmp_path)
    assert_same(newest, checkpoint(30))
    assert skipped == []


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, [])


# Retention


def test_the_newest_are_kept_and_the_best_beside_them(tmp_path):
    with CheckpointWriter(tmp_path, keep=2) as writer:
        for step, accuracy in (1, 0.5), (2, 0.9), (3, 0.6), (4, 0.7), (5, 0.9):
            writer.save(scored(step, accuracy))
            assert {step, max(1, step - 1)} <= set(steps(tmp_path))
            if step == 4:
                assert steps(tmp_path) == [2, 3, 4]
        assert steps(tmp_path) == [4, 5]  # as good, and newer


def test_without_classes_the_least_loss_is_best_and_nan_is_not(tmp_path):
    with CheckpointWriter(tmp_path, keep=1) as writer:
        for step, loss in (1, math.nan), (2, 0.25), (3, math.nan), (4, 0.5):
            writer.save(scored(step, None, loss))
    assert steps(tmp_path) == [2, 4]


def test_a_score_of_other_weights_makes_no_best(tmp_path):
    with CheckpointWriter(tmp_path, keep=1) as writer:
        writer.save(scored(2, 0.9, at=1))
        writer.save(checkpoint(3, test=None))
    assert steps(tmp_path) == [3]


def test_what_lies_beyond_a_step_is_discarded(writer, tmp_path):
    for step in 10, 20, 30:
        writer.save(checkpoint(step))
    writer.discard_after(10)
    assert steps(tmp_path) == [10]


def test_the_same_step_again_replaces_the_former(writer):
    writer.save(checkpoint(world_size=1))
    assert read_checkpoint(writer.save(checkpoint(world_size=4))).world_size == 4


# Harm


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << position % 8
    file.write_bytes(content)


FILES = ["COMMITTED", "manifest.json", "momentum.safetensors", "weights.safetensors"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", [flip, cut])
def test_a_checkpoint_that_was_harmed_is_skipped_in_words(writer, tmp_path, harm, file):
    writer.save(checkpoint(10))
    path = writer.save(checkpoint(20)) / file
    intact = path.read_bytes()
    for position in [0, *range(1, len(intact), 1 + len(intact) // 20)]:
        harm(path, position)
        newest, skipped = newest_checkpoint(tmp_path)
        assert newest is not None and newest.step == 10, (file, position)
        (reason,) = skipped
        assert str(path.parent) in reason
        path.write_bytes(intact)
    assert newest_checkpoint(tmp_path)[0].step == 20


@pytest.mark.parametrize(
    "file, said",
    [
        ("COMMITTED", "has no COMMITTED: writing it was interrupted"),
        ("manifest.json", "cannot read .*manifest.json"),
        ("weights.safetensors", "cannot read .*weights.safetensors"),
    ],
)
def test_a_checkpoint_that_lacks_a_file_is_skipped(writer, tmp_path, file, said):
    writer.save(checkpoint(10))
    (writer.save(checkpoint(20)) / file).unlink()
    newest, (reason,) = newest_checkpoint(tmp_path)
    assert_same(newest, checkpoint(10))
    with pytest.raises(RecordError, match=said):
        raise RecordError(reason)


def test_with_every_one_damaged_all_are_reported_and_none_is_taken(writer, tmp_path):
    for step in 10, 20:
        cut(writer.save(checkpoint(step)) / "weights.safetensors", 50)
    newest, (later, earlier) = newest_checkpoint(tmp_path)
    assert newest is None
    assert "step-00000020" in later and "step-00000010" in earlier


FORGED = [None, True, -1, 1e400, "../../weights", [], {}, {"a": {"b": [None]}}, 10**40]


def test_whatever_a_manifest_says_only_our_own_error_comes_of_it(writer):
    path = writer.save(checkpoint())
    manifest = json.loads((path / "manifest.json").read_text())
    refused = 0
    places = [(manifest, key) for key in manifest]
    places += [(manifest["test"], key) for key in manifest["test"]]
    places += [(manifest["files"], name) for name in manifest["files"]]
    places += [(manifest["state"], name) for name in manifest["state"]]
    places += [(manifest["files"], "../../../etc/passwd"), (manifest["files"], "x")]
    for place, key in places:
        before = dict(place)
        for value in FORGED:
            place[key] = value
            vouch(path, manifest)
            try:
                read_checkpoint(path)
            except RecordError:
                refused += 1
        place.clear()
        place.update(before)
    assert refused > 150
    vouch(path, manifest)
    assert_same(read_checkpoint(path), checkpoint())


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"", b"3", b"NaN"])
def test_a_manifest_made_to_break_the_reader_does_not(writer, content):
    path = writer.save(checkpoint())
    (path / "manifest.json").write_bytes(content)
    (path / "COMMITTED").write_text(hashlib.sha256(content).hexdigest())
    with pytest.raises(RecordError, match=r"manifest\.json"):
        read_checkpoint(path)


def test_another_versions_checkpoint_is_reported_as_such(writer):
    path = writer.save(checkpoint())
    manifest = json.loads((path / "manifest.json").read_text())
    vouch(path, {**manifest, "schema_version": 3})
    with pytest.raises(RecordError, match="has schema 3; this version of Duet reads 1"):
        read_checkpoint(path)


# Two writers


def test_of_two_writers_of_one_folder_the_second_is_refused(tmp_path):
    with (
        CheckpointWriter(tmp_path, keep=1) as first,
        pytest.raises(RecordError, match=f"written by process {os.getpid()} on .*wait"),
        CheckpointWriter(tmp_path, keep=1),
    ):
        pass
    first.close()
    with CheckpointWriter(tmp_path, keep=1) as second:
        second.save(checkpoint())
    assert steps(tmp_path) == [20]


def test_a_writer_that_is_refused_clears_nothing_away(writer, tmp_path):
    half = tmp_path / "checkpoints" / ".saving-1"
    half.mkdir()
    with contextlib.suppress(RecordError), CheckpointWriter(tmp_path, keep=1):
        pytest.fail("both write")
    assert half.exists()


def test_a_link_or_a_stray_file_by_a_checkpoints_name_goes_and_nothing_behind_it(
    tmp_path,
):
    archive = tmp_path / "archive"
    archive.mkdir()
    with CheckpointWriter(archive, keep=9) as writer:
        kept = writer.save(checkpoint(10))
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / kept.name).symlink_to(kept)  # moved out of the way
    (run / "checkpoints" / "step-00000012").touch()
    (run / "checkpoints" / "step-00000014").symlink_to(tmp_path / "gone")
    (run / "checkpoints" / "notes.txt").touch()
    with CheckpointWriter(run, keep=1) as writer:
        newest, _ = newest_checkpoint(run)
        assert newest is not None and newest.step == 10
        writer.save(checkpoint(20))
    assert steps(run) == [20] and (run / "checkpoints" / "notes.txt").exists()
    assert read_checkpoint(kept).step == 10


# A disk that refuses


def test_wherever_the_disk_fails_nothing_is_half_written(tmp_path, monkeypatch):
    calls = iter(range(1000))
    failing = 0

    def flaky(call):
        def refuse(*args, **kwargs):
            if next(calls) == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(*args, **kwargs)

        return refuse

    for failing in range(100):
        run = tmp_path / str(failing)
        run.mkdir()
        with CheckpointWriter(run, keep=1) as writer:
            writer.save(checkpoint(10))
            calls = iter(range(1000))
            with monkeypatch.context() as patch:
                for name in CALLS[:4]:  # the others clear away
                    patch.setattr(os, name, flaky(getattr(os, name)))
                try:
                    writer.save(checkpoint(20))
                    break
                except RecordError as error:
                    assert "Input/output error" in str(error)
            newest, skipped = newest_checkpoint(run)
            assert newest is not None and skipped == []
            assert_same(newest, checkpoint(newest.step))
            assert list(run.glob("checkpoints/.saving-*")) == []
    assert failing > 8


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_leaves_the_older_checkpoints_as_they_were(tmp_path):
    size = ["-o", "size=256k", "tmpfs"]
    subprocess.run(["mount", "-t", "tmpfs", *size, tmp_path], check=True)
    try:
        with CheckpointWriter(tmp_path, keep=9) as writer:
            writer.save(checkpoint(10))
            with pytest.raises(RecordError, match="No space left .*free some space"):
                writer.save(checkpoint(20, numbers=100_000))
            assert steps(tmp_path) == [10]
            assert list(tmp_path.glob("checkpoints/.saving-*")) == []
            writer.save(checkpoint(20))
            assert_same(newest_checkpoint(tmp_path)[0], checkpoint(20))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_folder_that_is_not_there_is_one_error(tmp_path):
    with (
        pytest.raises(RecordError, match="No such file or directory"),
        CheckpointWriter(tmp_path / "gone", keep=1),
    ):
        pass


# A writer that is killed

KILLED = """
import os, signal, sys
from pathlib import Path
import record.checkpoint
from record.checkpoint import CheckpointWriter, newest_checkpoint
from tests.record.checkpoints import CALLS, assert_same, checkpoint, steps

os.fsync = lambda descriptor: None  # as in conftest.py

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def half_written(path, content):
    path.write_bytes(content[: len(content) // 2])
    die()

def dying(call, countdown):
    def reached(*args, **kwargs):
        countdown[0] -= 1
        if countdown[0] < 0:
            die()
        return call(*args, **kwargs)
    return reached

def save(run, point, half):
    with CheckpointWriter(run, keep=1) as writer:
        countdown = [point]
        if half:
            real = record.checkpoint.write_file
            half_or_whole = dying(real, countdown)
            def write_file(path, content):
                if countdown[0] == 0:
                    half_written(path, content)
                half_or_whole(path, content)
            record.checkpoint.write_file = write_file
        else:
            for name in CALLS:
                setattr(os, name, dying(getattr(os, name), countdown))
        writer.save(checkpoint(20))

for half in True, False:
    for point in range(100):
        run = Path(sys.argv[1], f"{half}-{point}")
        run.mkdir()
        with CheckpointWriter(run, keep=1) as writer:
            writer.save(checkpoint(10))
        child = os.fork()
        if child == 0:
            save(run, point, half)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        newest, skipped = newest_checkpoint(run)
        assert newest.step in (10, 20), newest
        assert_same(newest, checkpoint(newest.step))
        with CheckpointWriter(run, keep=1) as writer:
            assert steps(run)[0] in (10, 20)
            assert newest_checkpoint(run)[1] == []
            writer.save(checkpoint(20))
        assert os.listdir(run / "checkpoints") in (
            [".lock", "step-00000020"], ["step-00000020", ".lock"]
        )
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    print(point)
"""


def test_wherever_a_writer_is_killed_a_good_checkpoint_is_found(run_python, tmp_path):
    done = run_python(["-c", KILLED, tmp_path])
    assert done.returncode == 0, done.stderr
    half, calls = map(int, done.stdout.split())
    assert half == 3  # two files of arrays and the manifest
    assert calls > 15


def test_a_writer_that_removed_the_older_one_first_would_be_caught(
    run_python, tmp_path
):
    careless = (
        "        writer.discard_after(0)\n        writer.save(checkpoint(20))\n\nfor"
    )
    script = KILLED.replace("        writer.save(checkpoint(20))\n\nfor", careless)
    assert script != KILLED
    done = run_python(["-c", script, tmp_path])
    assert "'NoneType' object has no attribute 'step'" in done.stderr
