"""The ranks of a run stop, fail and save together, by the same calls on each."""

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from recipe.batch_plan import BatchPlan
from recipe.errors import ConfigError, LostError, RecordError, StoppedError
from record.checkpoint import CheckpointWriter
from record.run import read_run, read_summary
from record.session import Session
from record.stopping import REQUEUE, STOP
from runtime.agreement import Ranks
from tests.record.checkpoints import steps
from tests.record.runs import LOSSES, NORMS, SCORES, WEIGHTS, recipe


class Asked:
    """In place of signals: which call of `asked` is answered, from 1."""

    def __init__(self, call=None):
        self.calls, self._call, self.watched, self.installed = 0, call, None, 0

    def install(self):
        self.installed += 1

    def watch(self, file):
        self.watched = file

    def asked(self):
        self.calls += 1
        return "SIGTERM" if self.calls == self._call else None


class Beats:
    """In place of the heartbeat: notes its calls."""

    def __init__(self):
        self.points, self.closed = [], False

    def connect(self):
        pass

    def watch(self, folder):
        pass

    def progress(self, slow=False):
        self.points.append(slow)

    @contextlib.contextmanager
    def guard(self, record):
        yield

    def close(self):
        self.closed = True


def alone(*others):
    """One process among simulated others, whose numbers are these.

    Args:
      others: of the n-th gather, what another rank says there; None: the same.
    """
    said = iter(others)

    def gather(values):
        gathered.append(len(values))
        other = next(said, None)
        return np.array([values, values if other is None else other], np.float64)

    gathered = []
    ranks = Ranks(0, 1, gather, lambda message: message)
    return ranks, gathered


def session_of(given, ranks, asked=None, beats=None):
    stopping, heartbeat = asked or Asked(), beats or Beats()
    return Session("jax", given, ranks, 2, ["cpu 0"], stopping, heartbeat)  # pyright: ignore


def train(given, session, evaluated=lambda window: None):
    """What the twins' loops do."""
    session.resume(BatchPlan.of(given, examples=16), "5e" * 32)
    session.ready()
    with session.recording(2570, None, profile) as record:
        for window in session.windows():
            with session.clock(window) as clock:
                with clock.data():
                    part = slice(window.steps.start, window.steps.stop)
                with clock.dispatch():
                    count = len(window.steps)
            record.window(
                window,
                clock.times,
                losses=np.array(LOSSES[part], np.float32),
                learning_rates=[0.1, 0.05, 0.1, 0.05][part],
                grad_norms=np.array(NORMS[part]),
                loss_scales=[1.0] * count,
                skipped=[False] * count,
            )
            if window.evaluates:
                evaluated(window)
                record.evaluation(window, SCORES)
            if session.save_due(window):
                record.save(window, {"weights": WEIGHTS}, {})
        record.trained({"weights": WEIGHTS}, 2**30)
        session.measure(lambda steps, following, clock: None, lambda: None)
        session.finish()
    return record.path


def profile(folder):
    raise AssertionError("no profile was asked for")


START, WINDOW, END = [1, 1, 1], [3, 3], [1]  # numbers that each gather is of


def test_every_window_has_two_agreements_and_a_run_four_more(tmp_path):
    given, beats = recipe(tmp_path / "run"), Beats()
    ranks, gathered = alone()
    folder = train(given, session_of(given, ranks, beats=beats))
    assert gathered == START + 2 * WINDOW + END
    assert beats.points == [True, True]  # as both windows evaluate
    run = read_run(folder)
    assert run.summary["status"] == "finished"
    assert [len(row["rank_seconds"]) for row in run.of_kind("window")] == [2, 2]
    assert (run.summary["compiled"], run.summary["compile_cached"]) == (False, None)
    assert run.summary["startup_seconds"] > 0


@pytest.mark.parametrize(
    ("saving", "saved"),
    [
        ({}, [4]),
        ({"every_steps": 3}, [3, 4]),
        ({"every_minutes": None}, []),
        ({"at_end": False}, []),
    ],
)
def test_a_run_saves_at_its_end_unless_it_saves_nothing(tmp_path, saving, saved):
    given = recipe(tmp_path / "run")
    given = replace(given, checkpoint=replace(given.checkpoint, **saving))
    assert steps(train(given, session_of(given, alone()[0]))) == saved


# The calls of `asked`: in start-up, before the first window, after each.
@pytest.mark.parametrize(("call", "step"), [(2, 0), (3, 2)])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_whichever_rank_is_to_stop_all_leave_after_one_step(
    tmp_path, call, step, elsewhere
):
    given = recipe(tmp_path / "run")
    asked, others = Asked(None if elsewhere else call), []
    if elsewhere:
        before = [None] * (2 if call == 2 else 4)
        others = [*before, [1.0] if call == 2 else [0.0, 1.0, 0.0]]
    ranks, gathered = alone(*others)
    session = session_of(given, ranks, asked)
    with pytest.raises(StoppedError, match=f"saved after step {step}. To resume: "):
        train(given, session)
    assert gathered == START + (WINDOW if step else []) + END
    assert asked.watched == tmp_path / "run" / STOP
    marked = json.loads((tmp_path / "run" / REQUEUE).read_text())
    reason = "another rank" if elsewhere else "SIGTERM"
    assert marked == {"step": step, "reason": reason}
    assert read_summary(tmp_path / "run")["status"] == "stopped"
    assert steps(tmp_path / "run") == ([step] if step else [])


def test_a_stop_after_the_last_window_lets_the_run_finish(tmp_path):
    given = recipe(tmp_path / "run")
    ranks, _ = alone()
    train(given, session_of(given, ranks, Asked(call=4)))
    assert read_summary(tmp_path / "run")["status"] == "finished"


@pytest.mark.parametrize("named", [True, False])
def test_a_stop_in_start_up_marks_a_folder_that_was_named(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    given = recipe(tmp_path / "run" if named else None)
    ranks, gathered = alone()
    session = session_of(given, ranks, Asked(call=1))
    told = "saved after step 0" if named else "nothing was started"
    with pytest.raises(StoppedError, match=f"asked to by SIGTERM; {told}"):
        train(given, session)
    assert gathered == START[:2]
    assert (tmp_path / "run" / REQUEUE).exists() == named
    assert named or not list(tmp_path.iterdir())


def test_what_rank_0_could_not_save_stops_the_run_at_the_next_agreement(
    tmp_path, monkeypatch
):
    def full(self, checkpoint):
        raise RecordError("no space")

    monkeypatch.setattr(CheckpointWriter, "save", full)
    given = recipe(tmp_path / "run")
    ranks, gathered = alone()
    with pytest.raises(RecordError, match="no space"):
        train(given, session_of(given, ranks, Asked(call=3)))
    assert gathered == START + WINDOW + END
    assert not (tmp_path / "run" / REQUEUE).exists()


def test_what_another_rank_says_of_the_record_ends_this_one(tmp_path):
    given = recipe(tmp_path / "run")
    ranks, _ = alone(None, None, None, None, [1.0, 0.0, 0.0])
    with pytest.raises(RecordError, match=r"rank 0 could not record; see .*rank0\.log"):
        train(given, session_of(given, ranks))


def test_only_the_last_window_is_profiled_and_its_end_is_not_timed(tmp_path):
    given = replace(recipe(tmp_path / "run"), profile=True)
    ranks, gathered = alone()
    session, seen = session_of(given, ranks), []

    def start_profile(folder):
        seen.append(("start", folder, len(gathered)))
        return lambda: seen.append(("end", len(gathered)))

    session.resume(BatchPlan.of(given, examples=16), "5e" * 32)
    with session.recording(2570, None, start_profile) as record:
        for window in session.windows():
            with session.clock(window):
                pass
            session.save_due(window)
    before = len(START + WINDOW)  # its times are noted, and not shared yet
    assert seen == [("start", record.path, before), ("end", before)]


# Leaving


def ended(tmp_path, error):
    ranks, beats = alone()[0], Beats()
    session = session_of(recipe(tmp_path / "run"), ranks, beats=beats)
    stopped = []

    def fails():
        model = SimpleNamespace()  # held by the frame, which nothing may keep
        raise error(f"{model}")

    with pytest.raises(error) as raised:
        session.run(fails, lambda: stopped.append(True))
    frames = [entry.name for entry in raised.traceback]
    return stopped, beats.closed, "fails" in frames


def test_an_error_that_all_ranks_meet_leaves_in_order_and_holds_no_frame(tmp_path):
    assert ended(tmp_path, ConfigError) == ([True], True, False)


@pytest.mark.parametrize("error", [LostError, ZeroDivisionError])
def test_an_error_of_one_rank_waits_for_no_other(tmp_path, error):
    assert ended(tmp_path, error) == ([], False, True)


def test_a_run_that_succeeds_leaves_in_order_with_its_folder(tmp_path):
    asked, beats, stopped = Asked(), Beats(), []
    ranks, _ = alone()
    session = session_of(recipe(tmp_path / "run"), ranks, asked, beats)
    folder = session.run(lambda: tmp_path, lambda: stopped.append(True))
    assert (folder, stopped, beats.closed, asked.installed) == (
        tmp_path,
        [True],
        True,
        1,
    )
