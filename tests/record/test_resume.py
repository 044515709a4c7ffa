"""A run goes on where it was, if it is the same run, and its record shows no seam."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recipe.batch_plan import BatchPlan
from recipe.config import Config, to_yaml
from recipe.errors import RecordError, StoppedError
from recipe.training import ScheduleConfig
from record import session
from record.checkpoint import CheckpointWriter, checkpoint_folder
from record.clock import Times
from record.folder import create_folder
from record.recorder import Recorder
from record.resume import Resume, resume_point
from record.rewind import claim_folder, rewind
from record.rows import rows_until
from record.run import read_rows, read_run, read_summary
from record.schema import strict_json
from record.session import ResumePlan
from record.stopping import REQUEUE
from tests.record.checkpoints import cut, steps
from tests.record.runs import (
    LOSSES,
    METADATA,
    NORMS,
    SCORES,
    WEIGHTS,
    contents,
    diverged,
    finished,
    interrupted,
    of_run,
    recipe,
)


def config(folder: Path | None, *, resume: str | Path = "auto", **changes) -> Config:
    """The four steps of `recipe`, with other values for keys of `train`."""
    base = recipe(folder)
    run = replace(base.run, resume=str(resume), **changes.pop("run", {}))
    return replace(base, run=run, train=replace(base.train, **changes))


@pytest.fixture
def run(tmp_path) -> Path:
    """Killed after step 4, with checkpoints of steps 2 and 4."""
    return interrupted(tmp_path / "run", 2, 4)


def rewound(resume: Resume, given: Config) -> None:
    with CheckpointWriter(resume.folder, keep=9) as writer:
        rewind(resume, given, writer, framework="torch", world_size=2)


def step_of(given: Config, fingerprint: str | None = None) -> int | None:
    resume = resume_point(given, fingerprint)
    return None if resume is None else resume.step


# Where a run goes on


def test_auto_takes_the_newest_valid_checkpoint_and_says_what_it_skipped(run):
    cut(checkpoint_folder(run, 4) / "weights.safetensors", 50)
    resume = resume_point(config(run))
    assert resume is not None and resume.step == 2
    assert (resume.folder, resume.source) == (run, run)
    skipped, last = resume.messages()
    assert "step-00000004/weights.safetensors has 50 bytes of" in skipped
    assert last == f"{run} resumes after step 2"


def test_looking_for_where_to_resume_changes_nothing(run):
    before = contents(run)
    resume_point(config(run))
    assert contents(run) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path):
    assert step_of(config(interrupted(tmp_path / "run"))) == 0


@pytest.mark.parametrize("there", [True, False])
def test_auto_starts_a_new_run_where_nothing_is(tmp_path, there):
    if there:
        (tmp_path / "run").mkdir()
    assert resume_point(config(tmp_path / "run")) is None
    assert resume_point(config(None)) is None


@pytest.mark.parametrize("resume", ["auto", "never"])
@pytest.mark.parametrize("occupy", [finished, diverged])
def test_a_run_that_came_to_its_end_is_left_alone(tmp_path, occupy, resume):
    occupy(tmp_path / "run")
    with pytest.raises(RecordError, match=f"already holds a {occupy.__name__} run"):
        resume_point(config(tmp_path / "run", resume=resume))


def test_never_refuses_a_run_that_was_interrupted(run):
    with pytest.raises(RecordError, match="already holds an unfinished run"):
        resume_point(config(run, resume="never"))


def test_a_run_folder_as_path_resumes_there(run):
    resume = resume_point(config(None, resume=run))
    assert resume is not None
    assert (resume.folder, resume.source, resume.step) == (run, run, 4)


def test_a_checkpoint_as_path_is_the_one_that_is_taken(run):
    assert step_of(config(run, resume=checkpoint_folder(run, 2))) == 2


@pytest.mark.parametrize("way", ["plain", "winding", "through a link"])
def test_a_checkpoint_in_its_own_run_dir_is_gone_back_to_once(tmp_path, run, way):
    resume = checkpoint_folder(run, 2)
    if way == "winding":
        resume = run / "checkpoints" / ".." / "checkpoints" / resume.name
    if way == "through a link":
        (tmp_path / "good").symlink_to(resume)
        resume = tmp_path / "good"
    given = config(run, resume=resume)
    found = resume_point(given)
    assert found is not None and (found.folder, found.source) == (run, run)
    rewound(found, given)
    assert steps(run) == [2]
    with CheckpointWriter(run, keep=9) as writer:
        writer.save(of_run(run, 3))
    assert step_of(given) == 3  # the same command, after another kill


def test_a_rank_reads_a_checkpoint_once(run, monkeypatch):
    read, names = Path.read_bytes, []
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: names.append(path.name) or read(path)
    )
    monkeypatch.setattr(session, "fitting", lambda config, path, found, size: found)
    given = config(run)
    # What every rank does before a framework is there, what rank 0 does, and the rest.
    resume_point(given, whole=False)
    assert "weights.safetensors" not in names
    for rank in 0, 1:
        names.clear()
        found = ResumePlan("jax", given, 1)
        path = str(checkpoint_folder(run, 4))
        if rank == 0:
            plan = BatchPlan.of(config(run, steps=6), examples=16)
            assert found.resolve(plan, METADATA.data_fingerprint) == path
        found.read(path)
        assert names.count("weights.safetensors") == 1


def test_a_path_that_the_system_refuses_is_one_error(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    long, loop = tmp_path / ("x" * 300), tmp_path / "a" / "run"
    for folder, resume in (long, "auto"), (None, long), (None, loop):
        with pytest.raises(RecordError, match=re.escape(str(tmp_path))):
            resume_point(config(folder, resume=resume))


def test_checkpoints_behind_a_link_are_taken_and_a_dead_link_is_reported(tmp_path, run):
    (run / "checkpoints").rename(tmp_path / "scratch")
    (run / "checkpoints").symlink_to(tmp_path / "scratch")
    assert step_of(config(run)) == 4
    assert step_of(config(run, resume=checkpoint_folder(run, 2))) == 2
    (tmp_path / "scratch").rename(tmp_path / "gone")
    with pytest.raises(RecordError, match="cannot read .*/run/checkpoints: No such"):
        resume_point(config(run))


def test_a_checkpoint_as_path_that_is_not_good_is_refused(run):
    cut(checkpoint_folder(run, 2) / "weights.safetensors", 50)
    with pytest.raises(RecordError, match="weights.safetensors has 50 bytes of"):
        resume_point(config(run, resume=checkpoint_folder(run, 2)))


def test_a_path_without_a_good_checkpoint_is_refused_and_says_why(tmp_path, run):
    cut(checkpoint_folder(run, 2) / "COMMITTED", 5)
    (checkpoint_folder(run, 4) / "COMMITTED").unlink()
    said = "no valid checkpoint; .*04 has no COMMITTED.*; .*02.*was changed"
    with pytest.raises(RecordError, match=said):
        resume_point(config(None, resume=run))


NOWHERE = {
    "sometimes": "sometimes is neither auto nor never nor a path; .*give auto, never",
    "gone/run": "gone/run does not exist; give auto, never, or the path",
    "empty": "empty is not a run folder; give auto, never, or the path",
    "finished": r"before a checkpoint was due, .*model.weights=.*final\.safetensors",
    "killed": "interrupted before its first checkpoint; .*run.resume=auto starts it",
}


@pytest.mark.parametrize("resume", NOWHERE)
def test_each_path_without_a_checkpoint_has_its_message(tmp_path, monkeypatch, resume):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    finished(tmp_path / "finished")
    interrupted(tmp_path / "killed")
    for folder in tmp_path / "fork", None:
        with pytest.raises(RecordError, match=NOWHERE[resume]):
            resume_point(config(folder, resume=resume))


def test_another_run_dir_resumes_from_its_own_checkpoints_once_it_has_some(
    tmp_path, run
):
    source = checkpoint_folder(run, 2)
    fork, given = tmp_path / "fork", config(tmp_path / "fork", resume=source)
    assert step_of(given) == 2
    create_folder(given, "torch")  # and killed before it had the rows
    started = resume_point(given)
    assert started is not None and (started.folder, started.source) == (fork, run)
    rewound(started, given)
    assert step_of(given) == 2
    with CheckpointWriter(fork, keep=1) as writer:
        writer.save(of_run(fork, 3))
    (fork / "config.yaml").write_text(to_yaml(config(fork)))  # auto, in between
    own = resume_point(given)
    assert own is not None and (own.folder, own.source, own.step) == (fork, fork, 3)
    with pytest.raises(RecordError, match="was not started from"):
        resume_point(config(fork, resume=checkpoint_folder(run, 4)))


@pytest.mark.parametrize("saved", [(2,), ()], ids=["saved", "unsaved"])
def test_a_run_of_its_own_is_not_taken_for_one_that_began_elsewhere(
    tmp_path, run, saved
):
    other = interrupted(tmp_path / "other", *saved)
    before = contents(other)
    said = f"{other} holds an interrupted run .* not started from run.resume={run}"
    with pytest.raises(RecordError, match=said):
        resume_point(config(other, resume=run))
    assert contents(other) == before


def test_a_finished_run_is_continued_in_another_folder_only(tmp_path, run):
    finished(tmp_path / "other")
    (tmp_path / "other" / "summary.json").rename(run / "summary.json")
    with pytest.raises(RecordError, match="finished run; .* give another run.dir"):
        resume_point(config(None, resume=run))
    assert step_of(config(tmp_path / "fork", resume=run)) == 4


def test_another_run_dir_must_be_free(tmp_path, run):
    (tmp_path / "fork").mkdir()
    (tmp_path / "fork" / "thesis.tex").touch()
    with pytest.raises(RecordError, match="other files"):
        resume_point(config(tmp_path / "fork", resume=run))


# Whether it may


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"seed": 7}, "train.seed is 7, was 0"),
        ({"global_batch_size": 4}, "train.global_batch_size is 4, was 8"),
        ({"label_smoothing": 0.1}, "train.label_smoothing is 0.1, was 0.0"),
        ({"perturb_seed": 1}, "train.perturb_seed is 1, was 0"),
    ],
)
@pytest.mark.parametrize("saved", [(2, 4), ()], ids=["saved", "unsaved"])
def test_what_would_be_another_run_is_refused_key_by_key(
    tmp_path, saved, changes, said
):
    run = interrupted(tmp_path / "run", *saved)
    with pytest.raises(RecordError, match=f"{said}. .*run.resume_anyway=true"):
        resume_point(config(run, **changes))
    resume = resume_point(config(run, run={"resume_anyway": True}, **changes))
    assert resume is not None and resume.differences == (said,)
    assert f"resumed anyway: {said}" in resume.messages()


@pytest.mark.parametrize("steps", [3, 9])
def test_under_a_constant_schedule_a_run_can_be_extended(run, steps):
    resume = resume_point(config(run, steps=steps))
    assert resume is not None and resume.differences == ()
    assert resume.step == 4  # a length that lies behind it is refused by the plan


def test_a_schedule_set_by_the_length_resumes_at_that_length_only(tmp_path):
    run = interrupted(tmp_path / "run")
    cosine = ScheduleConfig(name="cosine")
    whole = replace(config(run), schedule=cosine)
    (run / "config.yaml").write_text(to_yaml(whole))
    assert step_of(whole) == 0
    longer = replace(config(run, steps=9), schedule=cosine)
    with pytest.raises(RecordError) as refused:
        resume_point(longer)
    for said in (
        "train.steps is 9, was 4. ",
        "schedule=cosine sets each learning rate by the length",
        f"model.weights={run / 'final.safetensors'} and another run.dir",
    ):
        assert said in str(refused.value)
    # As long, but not by the same schedule.
    with pytest.raises(RecordError, match=r"schedule.name is constant, was cosine; tr"):
        resume_point(config(run, steps=9))


def test_what_is_finished_is_trained_on_in_another_folder(tmp_path):
    run = tmp_path / "run"
    finished(run)
    with pytest.raises(RecordError, match=r"continue it: model.weights=.*/final.safet"):
        resume_point(config(run, steps=9))
    with CheckpointWriter(run, keep=9) as writer:
        writer.save(of_run(run, 4))
    with pytest.raises(RecordError, match="to continue it: run.resume=.*/run, another"):
        resume_point(config(run, steps=9))
    recorded = run / "config.yaml"
    recorded.write_text(recorded.read_text().replace("constant", "cosine"))
    with pytest.raises(RecordError, match="continue it: model.weights=.* schedule=cos"):
        resume_point(config(run, steps=9))


def test_a_traced_step_ends_no_run_that_was_to_be_longer(tmp_path, run):
    with pytest.raises(RecordError, match="train.trace=3 would end the run in .*/run "):
        resume_point(config(run, trace=3, run={"resume_anyway": True}))
    assert step_of(config(tmp_path / "traced", trace=3, resume=run)) == 4


@pytest.mark.parametrize("steps, tested", [(3, None), (4, None), (4, 2)])
def test_a_run_resumes_only_where_steps_are_left(tmp_path, steps, tested):
    run = interrupted(tmp_path / "run", 4)
    test = None if tested is None else SCORES | {"step": tested}
    with CheckpointWriter(run, keep=9) as writer:
        writer.save(replace(of_run(run, 4), test=test))
    given = config(run, steps=steps, run={"resume_anyway": True})
    plan = BatchPlan.of(given, examples=16)
    with pytest.raises(RecordError, match=f"step 4, .* asked for is {steps}; "):
        ResumePlan("jax", given, 1).resolve(plan, METADATA.data_fingerprint)


def test_a_finished_run_is_not_resumed_for_no_further_step(tmp_path):
    run = tmp_path / "run"
    finished(run)
    with CheckpointWriter(run, keep=9) as writer:
        writer.save(replace(of_run(run, 4), test=SCORES | {"step": 4}))
    given = config(tmp_path / "other", resume=run)
    plan = BatchPlan.of(given, examples=16)
    with pytest.raises(RecordError, match="step 4, .* asked for is 4; "):
        ResumePlan("jax", given, 1).resolve(plan, METADATA.data_fingerprint)


def test_a_run_killed_between_its_last_step_and_its_end_resumes(tmp_path):
    run = interrupted(tmp_path / "run")
    with CheckpointWriter(run, keep=9) as writer:
        writer.save(replace(of_run(run, 4), test=SCORES | {"step": 4}))
    plan = BatchPlan.of(config(run), examples=16)
    resume_plan = ResumePlan("jax", config(run), 1)
    found = resume_plan.resolve(plan, METADATA.data_fingerprint)
    assert found == str(checkpoint_folder(run, 4))


def test_every_difference_is_named(run):
    with pytest.raises(RecordError) as refused:
        resume_point(config(run, seed=7, global_batch_size=4), "d1" * 32)
    for said in (
        "train.global_batch_size is 4, was 8; train.seed is 7, was 0; ",
        f"the data's SHA-256 is {'d1' * 32}, was {'5e' * 32}",
    ):
        assert said in str(refused.value)


def test_other_data_is_another_run_and_the_same_is_not(run):
    assert step_of(config(run), METADATA.data_fingerprint) == 4
    with pytest.raises(RecordError, match="the data's SHA-256 is"):
        resume_point(config(run), "d1" * 32)


def test_where_and_how_fast_a_run_resumes_is_free(run):
    looks = {"log_every_steps": 1, "timed_seconds": 3.0}
    given = replace(config(run, **looks), devices=8, platform="cpu")
    given = replace(given, parallel=replace(given.parallel, name="pmap"))
    given = replace(given, checkpoint=replace(given.checkpoint, every_steps=1))
    assert step_of(given) == 4


# What is recorded


def uninterrupted(run: Path, step: int) -> list[dict]:
    return [row for row in read_rows(run) if row["step"] <= step]


@pytest.mark.parametrize("step", [2, 4])
def test_the_record_ends_at_the_step_and_says_that_it_resumes(run, step):
    before = (run / "metrics.jsonl").read_bytes().splitlines()
    given = config(run, resume=checkpoint_folder(run, step))
    (run / REQUEUE).touch()
    resume = resume_point(given)
    assert resume is not None
    rewound(resume, given)
    *rows, last = (run / "metrics.jsonl").read_bytes().splitlines()
    assert rows == before[: 2 * step]  # byte for byte, two rows for each step
    assert read_rows(run)[-1] == {
        **{"kind": "resume", "step": step, "framework": "torch", "world_size": 2},
        **{"source": str(run), "left_out": [], "differences": [], "again_until": 4},
    }
    assert steps(run) == [saved for saved in (2, 4) if saved <= step]
    gone = {"summary.json", "final.safetensors", REQUEUE}
    assert not gone & {path.name for path in run.iterdir()}


def test_what_was_timed_after_the_last_step_is_none_to_come_back_to(run):
    lines = (run / "metrics.jsonl").read_bytes()
    rows = read_rows(run)
    (timed,) = (row for row in rows if row["kind"] == "window" and row["step"] == 4)
    timed = timed | {"step": 500, "measured": True}
    (run / "metrics.jsonl").write_bytes(lines + json.dumps(timed).encode() + b"\n")
    given = config(run, resume=checkpoint_folder(run, 4))
    rewound(resume_point(given), given)
    *kept, told = read_rows(run)
    assert kept == rows and told["again_until"] == 4


def test_what_was_resumed_anyway_is_in_the_record(run):
    given = config(run, seed=7, run={"resume_anyway": True})
    resume = resume_point(given)
    assert resume is not None
    rewound(resume, given)
    assert read_rows(run)[-1]["differences"] == ["train.seed is 7, was 0"]
    assert (run / "config.yaml").read_text() == to_yaml(given)


def test_steps_done_again_replace_those_before_and_the_record_can_be_read(run):
    given = config(run, resume=checkpoint_folder(run, 2))
    whole = read_rows(run)
    resume = resume_point(given)
    assert resume is not None
    rewound(resume, given)
    with (run / "metrics.jsonl").open("a") as file:
        for row in whole[4:]:
            file.write(json.dumps(strict_json(row)) + "\n")
    losses = [row["loss"] for row in read_rows(run) if row["kind"] == "step"]
    assert losses == [row["loss"] for row in whole if row["kind"] == "step"]


def test_a_run_resumed_in_another_folder_has_the_rows_up_to_there(tmp_path, run):
    given = config(tmp_path / "fork", resume=checkpoint_folder(run, 2))
    resume = resume_point(given)
    assert resume is not None
    before = contents(run)
    rewound(resume, replace(given, run=recipe(create_folder(given, "torch")).run))
    assert contents(run) == before
    rows = read_rows(tmp_path / "fork")
    assert rows[:-1] == uninterrupted(run, 2)
    assert rows[-1]["source"] == str(run)


def test_rows_without_a_step_that_leads_to_the_checkpoint_are_refused(run):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(RecordError, match="does not hold steps 1 to 2 once each"):
        rows_until(run / "metrics.jsonl", 2)


@pytest.mark.parametrize("partial", ['{"kind": "st', "\0" * 9, "{}", '{"step": 2}'])
def test_a_line_without_its_end_is_passed_over(run, partial):
    file = run / "metrics.jsonl"
    whole = rows_until(file, 4)
    with file.open("a") as opened:
        opened.write(partial)
    assert rows_until(file, 4) == whole == file.read_bytes()[: len(whole)]


@pytest.mark.parametrize("broken", ["{", "3", "{}", '{"step": true}', "[" * 99_999])
def test_a_broken_line_before_the_last_is_reported_by_its_number(run, broken):
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], broken, *lines[2:], ""]))
    with pytest.raises(RecordError, match="line 3 "):
        rows_until(file, 4)


def test_before_the_first_step_no_rows_are_needed(tmp_path, run):
    assert rows_until(tmp_path / "gone", 0) == b""
    assert rows_until(run / "metrics.jsonl", 0) == b""
    with pytest.raises(RecordError, match="cannot read"):
        rows_until(tmp_path / "gone", 1)


@pytest.mark.parametrize("point", range(5))
def test_an_interrupted_rewind_can_be_repeated(run, monkeypatch, point):
    given = config(run, resume=checkpoint_folder(run, 2))
    resume = resume_point(given)
    assert resume is not None
    countdown = iter(range(point, -1, -1))

    def dying(call):
        def reached(*args, **kwargs):
            if next(countdown, 0) == 0:
                raise KeyboardInterrupt
            return call(*args, **kwargs)

        return reached

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr(os, "unlink", dying(os.unlink))
        rewound(resume, given)
    again = resume_point(given)
    assert again is not None
    rewound(again, given)
    assert [row["step"] for row in read_rows(run)] == [1, 2, 2, 2, 2]
    assert steps(run) == [2]


# A run that is stopped and started again


def leg(given: Config, stop_after: int | None = None, save=lambda record: None) -> None:
    """What the twins do, from the last checkpoint to the end or the step of a stop."""
    resume = resume_point(given, METADATA.data_fingerprint)
    plan = BatchPlan.of(given, examples=16)
    done = 0 if resume is None else resume.step
    writer = claim_folder(given, resume, framework="jax", world_size=4)
    checkpoint = None if resume is None else resume.checkpoint
    with Recorder(writer.run, given, plan, METADATA, writer, checkpoint) as recorder:
        for window in plan.windows(given.train.log_every_steps, 1, 1, done):
            recorder.stop_if(recorder.failure is not None)
            part = slice(window.steps.start, window.steps.stop)
            recorder.window(
                window,
                Times([0.5 * len(window.steps)], 0.0, 0.0),
                losses=np.array(LOSSES[part], np.float32),
                learning_rates=[0.1, 0.05, 0.1, 0.05][part],
                grad_norms=np.array(NORMS[part]),
                loss_scales=[1.0] * len(window.steps),
                skipped=[False] * len(window.steps),
            )
            if window.evaluates:
                recorder.evaluation(window, SCORES)
            recorder.save(window, {"weights": WEIGHTS}, {"finite_steps": 3})
            save(recorder)
            if window.steps.stop == stop_after:
                recorder.stopped(window.steps.stop, "SIGTERM")
                recorder.stop_if(recorder.failure is not None)
                raise StoppedError(f"stopped by SIGTERM after step {stop_after}")
        recorder.trained({"weights": WEIGHTS}, peak_memory_bytes=2**30)
        recorder.finish()
        recorder.stop_if(recorder.failure is not None)


def seamless(run: Path) -> list[dict]:
    rows = (row | {"warmup": None} for row in read_run(run).rows)
    return [strict_json(row) for row in rows if row["kind"] != "resume"]


@pytest.mark.parametrize("stops", [(1,), (2,), (4,), (1, 2, 3, 4)])
def test_a_run_stopped_and_started_again_is_recorded_as_one(tmp_path, stops):
    leg(config(tmp_path / "whole"))
    given = config(tmp_path / "run")
    for stop in stops:
        with pytest.raises(StoppedError):
            leg(given, stop_after=stop)
        assert read_summary(tmp_path / "run")["status"] == "stopped"
        marked = json.loads((tmp_path / "run" / REQUEUE).read_text())
        assert marked == {"step": stop, "reason": "SIGTERM"}
    leg(given)
    assert seamless(tmp_path / "run") == seamless(tmp_path / "whole")
    whole, run = (read_summary(tmp_path / name) for name in ("whole", "run"))
    assert run["test"] == whole["test"] == SCORES
    assert run["steps"] == whole["steps"] == 4
    assert not (tmp_path / "run" / REQUEUE).exists()
    resumed = read_run(tmp_path / "run").of_kind("resume")
    assert [row["step"] for row in resumed] == list(stops)


def test_what_was_resumed_anyway_is_in_the_summary_ever_after(tmp_path):
    given = config(tmp_path / "run")
    with pytest.raises(StoppedError):
        leg(given, stop_after=1)
    anyway = config(tmp_path / "run", seed=7, run={"resume_anyway": True})
    with pytest.raises(StoppedError):
        leg(anyway, stop_after=2)
    leg(replace(anyway, run=given.run))
    summary = read_summary(tmp_path / "run")
    assert summary["resumed_anyway"] == ["train.seed is 7, was 0"]


def test_a_resumed_run_warms_up_and_is_as_fast_as_its_last_start(tmp_path):
    given = config(tmp_path / "run")
    with pytest.raises(StoppedError):
        leg(given, stop_after=2)
    leg(given)
    run = read_run(tmp_path / "run")
    windows = run.of_kind("window")
    assert [row["warmup"] for row in windows] == [True, False, True, False]
    timed = run.summary["images_per_second"]["windows"]
    assert timed == [windows[-1]["images_per_second"]]


def test_a_save_that_failed_stops_the_run_though_it_was_in_the_background(
    tmp_path, monkeypatch
):
    def full(self, checkpoint):
        raise RecordError(f"no space for step {checkpoint.step}")

    monkeypatch.setattr(CheckpointWriter, "save", full)
    with pytest.raises(RecordError, match="no space for step 1"):
        leg(config(tmp_path / "run"))
    summary = read_summary(tmp_path / "run")
    assert (summary["status"], summary["error"]) == ("failed", "no space for step 1")
    assert summary["steps"] == 2


def test_a_last_save_that_failed_leaves_neither_a_marker_nor_a_finished_run(
    tmp_path, monkeypatch
):
    save = CheckpointWriter.save

    def full(self, checkpoint):
        if checkpoint.step in (2, 4):
            raise RecordError("no space")
        save(self, checkpoint)

    monkeypatch.setattr(CheckpointWriter, "save", full)
    for stop in 2, None:
        with pytest.raises(RecordError, match="no space"):
            leg(config(tmp_path / f"{stop}", steps=2 if stop else 4), stop_after=stop)
        assert not (tmp_path / f"{stop}" / REQUEUE).exists()
        assert read_summary(tmp_path / f"{stop}")["status"] == "failed"


def test_rows_are_on_the_disk_before_the_checkpoint_they_lead_to(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def spy(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    leg(config(tmp_path / "run"))
    names = [n for n in synced if n.startswith(("metrics.jsonl", "COMMITTED"))]
    assert names == ["metrics.jsonl", "COMMITTED.partial"] * 4


def test_two_runs_do_not_resume_in_one_folder(tmp_path):
    given = config(tmp_path / "run")

    def second(recorder):
        with pytest.raises(RecordError, match="is being written by process"):
            leg(given)

    with pytest.raises(StoppedError):
        leg(given, stop_after=1, save=second)
    assert read_summary(tmp_path / "run")["status"] == "stopped"


def test_a_run_that_finished_meanwhile_is_not_rewound(tmp_path, run):
    resume = resume_point(config(run))
    finished(tmp_path / "other")
    (tmp_path / "other" / "summary.json").rename(run / "summary.json")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(RecordError, match="holds a finished run"):
        claim_folder(config(run), resume, framework="jax", world_size=4)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_other_ranks_save_nothing_and_mark_nothing(tmp_path):
    given = config(tmp_path / "run")
    plan = BatchPlan.of(given, examples=16)
    folder = create_folder(given, "jax")
    with Recorder(folder, given, plan, replace(METADATA, rank=1)) as recorder:
        (window, *_) = plan.windows(2, 1)
        recorder.save(window, {"weights": WEIGHTS}, {})
        recorder.stopped(window.steps.stop, "SIGTERM")
        assert not recorder.time_is_up()
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "logs"}
