"""Ranks that monitor each other: processes of plain Python, without a framework."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.heartbeat import Heartbeat
from tests.conftest import ROOT, clean_environment

RANK = """
import sys, time
from pathlib import Path
from recipe.execution import ParallelConfig
from recipe.errors import ConfigError, LostError
from runtime.processes import Processes
from runtime import heartbeat as module
from runtime.heartbeat import Heartbeat

module.BEAT_SECONDS, module.NEWS_SECONDS, module.RETURN_SECONDS = 0.1, 1.0, 0.5
rank, count, port, folder, text = sys.argv[1:]
processes = Processes(
    "torchrun", int(rank), int(count), int(rank), f"127.0.0.1:{port}", "launch"
)
config = ParallelConfig(name="dp", timeout_seconds=SILENCE, start_timeout_seconds=START)
with Heartbeat(processes, config) as heartbeat:
    while len(heartbeat._peers) < (int(count) - 1 if rank == "0" else 1):
        time.sleep(0.01)
    heartbeat.watch(Path(folder))
    time.sleep(0.5)
    print("connected", flush=True)
    exec(text)
"""
WAITS = "time.sleep(60)"  # as in a collective that another rank does not come to


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Ranks:
    def __init__(self, folder: Path, silence: float, start: float, *texts: str):
        port = free_port()
        code = RANK.replace("SILENCE", str(silence)).replace("START", str(start))
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-c", code, str(rank), str(len(texts))),
                    *(str(port), str(folder), text),
                ],
                cwd=ROOT,
                env=clean_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, text in enumerate(texts)
        ]

    def connect(self) -> None:
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "connected\n"

    def left(self, *ranks: int) -> tuple[list[int], str]:
        """How some of them left, and what these said of errors."""
        mine = [self.processes[rank] for rank in ranks]
        said = "".join(process.communicate(timeout=60)[1] for process in mine)
        return [process.returncode for process in mine], said


@pytest.fixture
def ranks(tmp_path):
    started = []

    def start(*texts: str, silence: float = 60, begin: float = 60) -> Ranks:
        started.append(Ranks(tmp_path, silence, begin, *texts))
        return started[-1]

    yield start
    for each in started:
        for process in each.processes:
            process.kill()
            process.communicate()


CLOSES = "heartbeat.close()"


def test_ranks_that_close_in_order_leave_in_order(ranks):
    three = ranks(CLOSES, CLOSES, CLOSES)
    three.connect()
    assert three.left(0, 1, 2) == ([0, 0, 0], "")


@pytest.mark.parametrize("dead", [0, 1])
def test_the_others_of_a_dead_rank_name_it_and_its_log_once_and_leave(
    ranks, dead, tmp_path
):
    three = ranks(WAITS, WAITS, WAITS)
    three.connect()
    three.processes[dead].kill()
    statuses, said = three.left(*({0, 1, 2} - {dead}))
    assert statuses == [1, 1]
    log = re.escape(str(tmp_path / "logs" / f"rank{dead}.log"))
    place = r"\(process \d+ on \S+\)"
    assert re.fullmatch(f"error: rank {dead} {place} has ended; see {log}\n", said)


FAILS_LATE = """
with heartbeat.guard(print):
    time.sleep(5)
    raise RuntimeError('connection closed by peer')
"""


@pytest.mark.parametrize("text", [WAITS, FAILS_LATE], ids=["waits", "fails"])
def test_a_frozen_rank_is_missed_and_leaves_once_it_is_thawed(ranks, text):
    two = ranks(WAITS, text, silence=2)
    two.connect()
    two.processes[1].send_signal(signal.SIGSTOP)
    statuses, said = two.left(0)
    assert statuses == [1]
    assert "rank 1 (process" in said and "has sent no heartbeat for 2 s" in said
    two.processes[1].send_signal(signal.SIGCONT)
    assert two.left(1)[0] == [1]


def test_ranks_that_are_suspended_together_blame_nobody(ranks):
    two = ranks(*["time.sleep(6); heartbeat.close()"] * 2, silence=2)
    two.connect()
    for process in two.processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    for process in two.processes:
        process.send_signal(signal.SIGCONT)
    assert two.left(0, 1) == ([0, 0], "")


def test_if_all_are_alive_and_none_progresses_all_are_ended(ranks):
    steps = "[(heartbeat.progress(), time.sleep(0.1)) for _ in range(20)];"
    two = ranks(*[steps + WAITS] * 2, silence=2)
    two.connect()
    statuses, said = two.left(0, 1)
    assert statuses == [1, 1]
    assert said.startswith("error: the ranks are deadlocked: no progress for")


def test_what_a_window_may_take_grows_with_those_before(ranks):
    steps = "[(heartbeat.progress(), time.sleep(0.5)) for _ in range(3)];"
    two = ranks(*[f"{steps} time.sleep(4); heartbeat.close()"] * 2, silence=2)
    two.connect()
    assert two.left(0, 1) == ([0, 0], "")


def test_a_rank_that_never_comes_is_named(ranks):
    two = ranks(WAITS, "", silence=2, begin=3)
    two.processes[1].kill()
    statuses, said = two.left(0)
    assert statuses == [1]
    assert "error: rank 1 has not connected within 3 s" in said


def test_a_rank_that_fails_says_how_and_the_others_repeat_it(ranks):
    two = ranks(WAITS, "raise RuntimeError('a bug')")
    two.connect()
    statuses, said = two.left(0, 1)
    assert statuses == [1, 1]
    assert "has failed: RuntimeError: a bug; see" in said
    assert said.count("Traceback") == 1


def test_what_a_collective_says_of_a_lost_rank_becomes_its_name(ranks):
    fails = "\n".join(
        [
            "try:",
            "    with heartbeat.guard(print):",
            "        time.sleep(1)",
            "        raise RuntimeError('connection closed by peer')",
            "except LostError as error:",
            "    print('lost:', error, flush=True)",
            "    raise",
        ]
    )
    two = ranks(fails, "import os; os._exit(9)")
    two.connect()
    statuses, said = two.left(0)
    assert statuses == [1] and "rank 1 (process" in said
    assert "Traceback" not in said


STRANGERS = b'{"rank": 1, "token": "guessed"}', b"[]", b"GET / HTTP/1.1", b"[" * 5000


def test_a_stranger_at_the_port_is_no_rank(ranks):
    two = ranks(
        f"{WAITS[:-3]}3); heartbeat.close()", "time.sleep(3); heartbeat.close()"
    )
    (place,) = listening(two.processes[0].pid)
    for said in STRANGERS:
        with socket.create_connection(place) as stranger:
            stranger.sendall(said + b"\n")
            assert stranger.recv(100) == b""
    two.connect()
    assert two.left(0, 1) == ([0, 0], "")


def listening(process: int) -> list[tuple[str, int]]:
    """Where a process listens, as soon as it does."""
    import psutil

    while True:
        found = psutil.Process(process).net_connections("tcp")
        if places := [c.laddr for c in found if c.status == "LISTEN"]:
            assert {place.ip for place in places} == {"127.0.0.1"}  # one node: loopback
            return [(place.ip, place.port) for place in places]
        time.sleep(0.02)


def test_one_process_has_no_watch_and_no_port():
    from recipe.execution import ParallelConfig
    from runtime.processes import Processes

    with Heartbeat(Processes(), ParallelConfig(name="dp")) as heartbeat:
        heartbeat.progress()
        assert not heartbeat._thread.is_alive()
