"""What a tracker shows is what the record holds, and no tracker can stop a run."""

import contextlib
import http.server
import io
import json
import logging
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recipe.errors import ConfigError
from record import tracking, wandb_settings
from record.tracking import NAMESPACES, check_tracking
from tests.record.runs import config
from tests.record.trackers import (
    BEFORE,
    CANARY,
    KILLED,
    attempt,
    files_with,
    metrics,
    open_tracker,
)
from tests.record.wandb_history import (
    as_row,
    read_history,
    read_run,
    read_summary,
    records,
)
from tests.record.wandb_server import fresh_wandb, receiving

ROOT = Path(__file__).parents[2]
FOREIGN = ("torch", "jax", "tensorflow")
SUMMARY = {
    "status": "diverged",
    "steps": 400,
    "test": {"loss": math.nan, "accuracy": None},
    "images_per_second": {"median": 3.5, "windows": [3.0, 4.0]},
}


def as_lines(rows: list[dict]) -> list[str]:
    """As JSON has numbers: NaN equals NaN and 1 equals 1.0, but True is not 1."""

    def number(value):
        return float(value) if type(value) is int else value

    plain = [{name: number(value) for name, value in row.items()} for row in rows]
    return [json.dumps(row, sort_keys=True) for row in plain]


def resumed_rows(record: list[dict], again_until: int) -> list[dict]:
    return [*record, {"kind": "resume", "step": 4, "again_until": again_until}]


AGAIN = attempt(5, 6, 7, 8, loss=2)
KILLED_RUN = """
import os, pathlib, signal, sys
from tests.record.trackers import BEFORE, KILLED, open_tracker
tracker = open_tracker(pathlib.Path(sys.argv[1]), sys.argv[2])
for row in BEFORE + KILLED:
    tracker.log(row)
tracker.catch_up()
os.kill(os.getpid(), signal.SIGKILL)
"""


def run_until_killed(run_dir: Path, tracker: str) -> None:
    """As the environment has it; what is left is what the tracker itself wrote."""
    command = [sys.executable, "-c", KILLED_RUN, str(run_dir), tracker]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL


def probe(code: str, *search: Path) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter at the root, `search` ahead on its path."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*search, ROOT)))},
        capture_output=True,
        text=True,
    )


@contextlib.contextmanager
def server(status: int):
    """A W&B server on loopback that answers every request with `status`."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", asked
        listening.shutdown()
        thread.join()


# --- Weights & Biases


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory):
    """A run folder mirrored offline for want of a key, and what was printed."""
    folder = tmp_path_factory.mktemp("wandb")
    printed = io.StringIO()
    with fresh_wandb(folder / "home"), contextlib.redirect_stdout(printed):
        tracker = open_tracker(folder / "run-1", "wandb", tags=["mine"])
        for row in metrics():
            tracker.log(row)
        tracker.finish(SUMMARY)
    return folder / "run-1", printed.getvalue()


def test_wandb_history_equals_the_metrics_row_for_row(offline_run):
    run_dir, _ = offline_run
    assert as_lines(read_history(run_dir)) == as_lines(metrics())


@pytest.mark.parametrize("value", [math.nan, 0.333333333333, True, None])
def test_a_changed_value_is_seen_in_wandb_history(offline_run, value):
    run_dir, _ = offline_run
    changed = [{**metrics()[0], "loss": value}, *metrics()[1:]]
    assert as_lines(read_history(run_dir)) != as_lines(changed)


def test_wandb_draws_every_kind_over_our_own_step(offline_run):
    run_dir, _ = offline_run
    (path,) = run_dir.glob("wandb/*run-*/*.wandb")
    defined = [r.metric for r in records(path) if r.HasField("metric")]
    over = {m.glob_name: m.step_metric for m in defined if m.glob_name}
    assert over == {f"{kind}/*": "step" for kind in NAMESPACES.values()}


def test_wandb_run_says_which_run_it_mirrors(offline_run):
    run_dir, _ = offline_run
    run, settings = read_run(run_dir)
    assert run.run_id == (run_dir / "wandb_id").read_text().strip()
    assert (run.display_name, run.run_group, run.job_type, run.project) == (
        "run-1",
        "an-experiment",
        "train",
        "duet",
    )
    tags = {"pytorch", "fp32", "dp", "world_size=2", "an-experiment", "mine"}
    assert set(run.tags) == tags
    del settings["_wandb"]
    assert settings == {
        "train": {"epochs": None, "steps": 400},
        "framework": "pytorch",
        "world_size": 2,
        "environment": {"torch": "2.14"},
    }


def test_wandb_summary_holds_the_summary(offline_run):
    run_dir, _ = offline_run
    summary = read_summary(run_dir)
    assert summary["test"] == {"loss": "NaN", "accuracy": None}  # as W&B spells NaN
    assert {k: v for k, v in summary.items() if k in SUMMARY and k != "test"} == {
        k: v for k, v in SUMMARY.items() if k != "test"
    }


def test_without_a_key_wandb_stays_offline_and_prints_one_sync_line(offline_run):
    run_dir, printed = offline_run
    assert len(list(run_dir.glob("wandb/offline-run-*"))) == 1
    assert printed.splitlines()[1:] == [f"wandb sync {run_dir / 'wandb'}"]


def test_a_run_that_did_not_finish_is_marked_failed(offline_run):
    run_dir, _ = offline_run
    (path,) = run_dir.glob("wandb/*run-*/*.wandb")
    (code,) = [r.exit.exit_code for r in records(path) if r.HasField("exit")]
    assert code == 1


def test_a_killed_run_that_resumes_is_one_run_of_wandb_without_a_seam(tmp_path):
    run = tmp_path / "run"
    with fresh_wandb(tmp_path / "home", WANDB_MODE="offline"):
        run_until_killed(run, "wandb")
        (killed,) = run.glob("wandb/offline-run-*/*.wandb")
        known_as = (run / "wandb_id").read_text().strip()
        tracker = open_tracker(run, "wandb", rows=resumed_rows(BEFORE, again_until=7))
        for row in AGAIN:
            tracker.log(row)
        tracker.finish({"status": "finished"})
    assert not killed.exists()
    assert read_run(run)[0].run_id == known_as
    assert as_lines(read_history(run)) == as_lines(BEFORE + AGAIN)


@pytest.mark.parametrize("arrived", [3, 10])  # of ten rows
def test_online_wandb_is_sent_what_it_lacks_and_nothing_twice(tmp_path, arrived):
    run, before = tmp_path / "run", (BEFORE + KILLED)[:arrived]
    with receiving() as (url, history):
        key = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "k" * 40}
        with fresh_wandb(tmp_path / "home", **key):
            for rows, logged in ([], before), (resumed_rows(BEFORE, 7), AGAIN):
                tracker = open_tracker(run, "wandb", rows=rows)
                for row in logged:
                    tracker.log(row)
                tracker.finish({"status": "finished"})
    sent = before + [r for r in BEFORE + AGAIN if r["step"] > before[-1]["step"]]
    assert as_lines([as_row(history[n]) for n in sorted(history)]) == as_lines(sent)


@pytest.mark.parametrize("synced", [False, True])
def test_the_lines_printed_upload_the_attempts_as_one_run(tmp_path, capsys, synced):
    run = tmp_path / "run"
    script = str(Path(sys.executable).with_name("wandb"))
    with receiving() as (url, history), fresh_wandb(tmp_path / "home"):
        for rows, logged in ([], BEFORE + KILLED), (resumed_rows(BEFORE, 7), AGAIN):
            tracker = open_tracker(run, "wandb", rows=rows)
            for row in logged:
                tracker.log(row)
            tracker.finish({"status": "finished"})
            if rows or synced:
                command = shlex.split(capsys.readouterr().out.splitlines()[-1])
                key = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "k" * 40}
                done = subprocess.run([script, *command[1:]], env=os.environ | key)
                assert done.returncode == 0
    whole = BEFORE + (KILLED + attempt(8, loss=2) if synced else AGAIN)
    assert as_lines([as_row(history[n]) for n in sorted(history)]) == as_lines(whole)


def silent_server() -> tuple[str, list[socket.socket]]:
    """An address that never answers: its queue of connections is full."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = [listening]
    for _ in range(2):
        waiting.append(socket.socket())
        waiting[-1].setblocking(False)
        waiting[-1].connect_ex(listening.getsockname())
    return f"http://127.0.0.1:{listening.getsockname()[1]}", waiting


@pytest.mark.parametrize("network", ["refuses", "keeps silent"])
def test_with_a_key_but_no_network_wandb_is_soon_offline(
    tmp_path, network, monkeypatch, capsys
):
    monkeypatch.setattr(wandb_settings, "NETWORK_SECONDS", 0.2)
    url, sockets = silent_server() if network == "keeps silent" else ("", [])
    variables = {"WANDB_BASE_URL": url} if url else {}
    with fresh_wandb(tmp_path / "home", WANDB_API_KEY=CANARY, **variables):
        start = time.monotonic()
        tracker = open_tracker(tmp_path / "run", "wandb")
        assert time.monotonic() - start < 10
        tracker.log(metrics()[0])
        tracker.finish({"status": "finished"})
    for each in sockets:
        each.close()
    assert as_lines(read_history(tmp_path / "run")) == as_lines(metrics()[:1])
    assert "wandb sync " in capsys.readouterr().out
    assert files_with(CANARY, tmp_path) == []


@pytest.mark.parametrize("where", ["environment", "netrc"])
def test_a_run_whose_key_the_server_refuses_is_kept_offline(
    tmp_path, where, caplog, capsys
):
    netrc = tmp_path / "netrc"
    variables = {"WANDB_API_KEY": CANARY}
    with server(401) as (url, asked):
        if where == "netrc":
            host = url.removeprefix("http://")
            netrc.write_text(f"machine {host} login user password {CANARY}\n")
            variables = {"NETRC": str(netrc)}
        with fresh_wandb(tmp_path / "home", WANDB_BASE_URL=url, **variables):
            tracker = open_tracker(tmp_path / "run", "wandb")
            tracker.log(metrics()[0])
            tracker.finish({"status": "finished"})
    assert "/graphql" in asked
    (warning,) = [r for r in caplog.records if r.name == "duet"]
    assert "W&B is offline (" in warning.getMessage()
    attempts = [path.name for path in tmp_path.glob("run/wandb/*run-*")]
    assert len(attempts) == 1 and attempts[0].startswith("offline-")
    assert as_lines(read_history(tmp_path / "run")) == as_lines(metrics()[:1])
    assert "wandb sync " in capsys.readouterr().out
    assert files_with(CANARY, tmp_path / "run") == []
    assert files_with(CANARY, tmp_path / "home") == []
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "mode, key, folders",
    [
        (None, "", 1),
        ("offline", CANARY, 1),
        ("disabled", CANARY, 0),
        ("disabled", "", 0),
    ],
)
def test_a_mode_set_by_the_user_wins_and_a_key_is_needed(
    tmp_path, mode, key, folders, caplog
):
    with server(401) as (url, asked):
        variables = {"WANDB_MODE": mode, "WANDB_API_KEY": key, "WANDB_BASE_URL": url}
        given = {name: value for name, value in variables.items() if value}
        with fresh_wandb(tmp_path / "home", **given):
            tracker = open_tracker(tmp_path / "run", "wandb")
            tracker.log(metrics()[0])
            tracker.finish({"status": "finished"})
    assert asked == []
    assert len(list(tmp_path.glob("run/wandb/offline-run-*"))) == folders
    assert not [r for r in caplog.records if r.name == "duet"]


@pytest.mark.parametrize("tags", [[CANARY], [f"by {CANARY}!"]])
def test_a_config_that_holds_the_key_is_refused_without_showing_it(monkeypatch, tags):
    given = config("wandb", tags=tags)
    check_tracking(given)  # nobody's key as yet
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    with pytest.raises(
        ConfigError, match="tracking.tags contains the value of WANDB_API_KEY"
    ) as e:
        check_tracking(given)
    assert CANARY not in str(e.value)
    check_tracking(config("wandb"))


def test_a_key_that_was_written_would_be_found(tmp_path):
    (tmp_path / "leak").write_text(f"key: {CANARY}")
    assert files_with(CANARY, tmp_path) == [tmp_path / "leak"]


# --- TensorBoard


def shown_by_tensorboard(run_dir: Path) -> dict[str, list]:
    """Each curve's points, as its own reader takes them from all event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"), {"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def points(rows: list[dict]) -> dict[str, list]:
    """The curves that rows make; a regression's accuracy has no point."""
    curves: dict[str, list] = {}
    for row in rows:
        for tag, value in tracking.named(row).items():
            if value is not None:
                curves.setdefault(tag, []).append((row["step"], value))
    return curves


def test_tensorboard_shows_the_metrics_by_the_same_names(tmp_path):
    tracker = open_tracker(tmp_path, "tensorboard")
    for row in metrics():
        tracker.log(row)
    tracker.finish(SUMMARY)
    seen, expected = shown_by_tensorboard(tmp_path), points(metrics())
    assert seen.keys() == expected.keys()
    for tag, wanted in expected.items():
        assert [step for step, _ in seen[tag]] == [step for step, _ in wanted]
        values = [value for _, value in seen[tag]]
        exact = [float(value) for _, value in wanted]
        # Event files hold single precision.
        assert values == pytest.approx(exact, rel=1e-7, abs=1e-45, nan_ok=True)


@pytest.mark.parametrize("written", ["whole", "cut", "nothing"])
def test_a_killed_run_that_resumes_is_one_curve_in_tensorboard(tmp_path, written):
    run_until_killed(tmp_path, "tensorboard")
    (killed,) = tmp_path.glob("tensorboard/events.*")
    if written == "cut":
        killed.write_bytes(killed.read_bytes()[:-5])
    if written == "nothing":
        killed.unlink()
    rows = resumed_rows(BEFORE, again_until=7)
    tracker = open_tracker(tmp_path, "tensorboard", rows=rows)
    for row in AGAIN:
        tracker.log(row)
    tracker.finish(SUMMARY)
    assert shown_by_tensorboard(tmp_path) == points(BEFORE + AGAIN)


def test_tensorboard_can_be_followed_during_the_run(tmp_path):
    tracker = open_tracker(tmp_path, "tensorboard")
    (events,) = tmp_path.glob("tensorboard/events.*")
    before = events.stat().st_size
    tracker.log(metrics()[-1])
    until = time.monotonic() + 10
    while events.stat().st_size == before and time.monotonic() < until:
        time.sleep(0.01)
    assert events.stat().st_size > before
    tracker.finish(SUMMARY)


def test_rows_reach_a_slow_tracker_in_order_and_before_the_summary(
    tmp_path, monkeypatch
):
    told = []

    class Slow(Broken):
        def log(self, row):
            time.sleep(0.01)
            told.append(row["step"])

        def finish(self, summary):
            told.append(summary)

    monkeypatch.setitem(tracking.TRACKERS, "wandb", Slow)
    tracker = open_tracker(tmp_path, "wandb")
    begin = time.perf_counter()
    tracker.log(*({"kind": "step", "step": step} for step in range(10)))
    returned = time.perf_counter() - begin
    tracker.finish(SUMMARY)
    assert told == [*range(10), SUMMARY]
    assert returned < 0.1


# --- what stays out of the process

MIRROR_ONE_ROW = """
import pathlib
from tests.record.trackers import metrics, open_tracker
tracker = open_tracker(pathlib.Path({run_dir!r}), "tensorboard")
tracker.log(metrics()[0])
tracker.finish({{"status": "finished"}})
"""


def loaded(code: str, names: tuple[str, ...], *search: Path) -> list[str]:
    """Which of these modules a fresh process has after running code."""
    report = f"\nimport sys; print(*({set(names)!r} & sys.modules.keys()))"
    done = probe(code + report, *search)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split())


@pytest.fixture
def with_tensorflow(tmp_path):
    """A folder to search in which TensorFlow is installed, after a fashion."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorflow.py").write_text("io = None")
    return tmp_path / "site"


def test_importing_tracking_loads_no_tracker_and_no_framework():
    names = (*FOREIGN, "wandb", "tensorboard")
    assert loaded("import record.tracking, record.wandb_project", names) == []


@pytest.mark.parametrize("name", ["jax", "tensorboard", "torch", "wandb"])
def test_the_probe_sees_what_is_loaded(name):
    stub = f"import sys, types; sys.modules[{name!r}] = types.ModuleType({name!r})"
    assert loaded(stub, (name,)) == [name]


def test_tensorboard_brings_no_framework_along(tmp_path, with_tensorflow):
    mirror = MIRROR_ONE_ROW.format(run_dir=str(tmp_path))
    names = ("tensorboard", *FOREIGN)
    assert loaded(mirror, names, with_tensorflow) == ["tensorboard"]


def test_tensorboards_own_writer_would_bring_tensorflow(with_tensorflow):
    code = (
        "from tensorboard.summary.writer.event_file_writer import EventFileWriter\n"
        "try: EventFileWriter('nowhere')\n"
        "except AttributeError: pass"  # the stand-in has no file system
    )
    assert loaded(code, FOREIGN, with_tensorflow) == ["tensorflow"]


def test_wandb_brings_no_framework_along():
    assert loaded("import wandb; wandb.setup()", FOREIGN) == []


# --- a tracker that fails


class Broken:
    """A tracker that fails at one of its three doors."""

    door = ""

    def __init__(self, *_):
        self.entered = []
        self._enter("open")

    def log(self, row):
        self._enter("log")

    def finish(self, summary):
        self._enter("finish")

    def _enter(self, door):
        self.entered.append(door)
        if door == self.door:
            raise OSError(f"no space left at {door}")


@pytest.mark.parametrize("door", ["open", "log", "finish"])
def test_a_failing_tracker_warns_once_and_the_run_continues(
    tmp_path, monkeypatch, caplog, door
):
    monkeypatch.setattr(Broken, "door", door)
    monkeypatch.setitem(tracking.TRACKERS, "wandb", Broken)
    tracker = open_tracker(tmp_path, "wandb")
    for row in metrics()[:3]:
        tracker.log(row)
    tracker.finish(SUMMARY)
    (warning,) = caplog.records
    assert (warning.name, warning.levelno) == ("duet", logging.WARNING)
    for part in ("wandb", f"OSError: no space left at {door}", str(tmp_path)):
        assert part in warning.getMessage()


def test_a_tracker_that_failed_gets_no_more_rows_but_is_closed(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(Broken, "door", "log")
    monkeypatch.setitem(
        tracking.TRACKERS, "wandb", lambda *_: made.append(Broken()) or made[0]
    )
    tracker = open_tracker(tmp_path, "wandb")
    for row in metrics()[:3]:
        tracker.log(row)
    tracker.finish(SUMMARY)
    assert made[0].entered == ["open", "log", "finish"]


def test_a_tracker_that_works_warns_of_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(tracking.TRACKERS, "wandb", Broken)
    tracker = open_tracker(tmp_path, "wandb")
    tracker.log(metrics()[0])
    tracker.finish(SUMMARY)
    assert caplog.records == []


def test_the_warning_reaches_stderr_where_nobody_configured_logging(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    done = probe(MIRROR_ONE_ROW.format(run_dir=str(tmp_path)))
    assert done.returncode == 0
    assert done.stderr.count("tracking=tensorboard failed") == 1
    assert "Traceback" not in done.stderr


def test_every_tracker_the_config_knows_can_be_opened():
    from recipe.execution import TRACKERS

    assert sorted(tracking.TRACKERS) == sorted(TRACKERS)


def test_no_tracker_leaves_the_run_folder_alone(tmp_path):
    tracker = open_tracker(tmp_path, "none")
    tracker.log(metrics()[0])
    tracker.finish(SUMMARY)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_not_marked_failed_and_keeps_the_group_given(tmp_path):
    with fresh_wandb(tmp_path / "home"):
        tracker = open_tracker(tmp_path / "run", "wandb", group="ours")
        tracker.finish({"status": "finished"})
    run, _ = read_run(tmp_path / "run")
    assert run.run_group == "ours"
    (path,) = tmp_path.glob("run/wandb/*run-*/*.wandb")
    assert [r.exit.exit_code for r in records(path) if r.HasField("exit")] == [0]
