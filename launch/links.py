"""One run whose processes are hosts of their own, joined by links of a bandwidth.

    python -m launch.links --mbit=100 --processes=2 --cores=1 --run=DIR \
        launch/pytorch.py experiment=digits_cnn devices=2 run.dir=DIR

Needs root on Linux. Each link is measured before the run; `link.json` in its folder
says what was found, and what rank 0 had sent at the end of each window. All hosts end
with the run, with the process that started it, and with the study in `DUET_STUDY`.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.children import ROOT
from launch.hosts import NAMESPACES, Host, make_hosts, path, why_not
from launch.link_speed import transfer_mbit
from recipe.errors import ConfigError, DuetError
from recipe.links import (
    CONGESTION,
    FILE,
    LEAST,
    MOST,
    PORT,
    UNLIMITED,
    address,
    burst_bytes,
    counters,
    fault,
    host_name,
    queue_bytes,
)
from record.disk import to_json, write_whole

STUDY = "DUET_STUDY"  # variable with a process, or a descriptor of one, to end with
INSIDE = "inside"  # first word of the process in the namespaces
MASTER_PORT = "29500"
TRANSFERS = 4  # at most, to measure a link
USAGE = (
    "python -m launch.links --mbit=100 --processes=2 --cores=1 --run=DIR SCRIPT ..., "
    "with all four in this form and the script's words at the end"
)
GRACE_SECONDS = 30.0  # for the others, once one process has failed
LOOK_SECONDS = 0.01  # between two looks at the run's rows


def command(mbit: int | str, processes: int, cores: int, run: Path) -> list[str]:
    """How a command line begins that starts a run over such links.

    Args:
      cores: of each process.
      run: its folder.
    """
    given = {"mbit": mbit, "processes": processes, "cores": cores, "run": run}
    options = [f"--{name}={value}" for name, value in given.items()]
    return [sys.executable, "-m", "launch.links", *options]


def measure(hosts: list[Host], mbit: int | str) -> list[float]:
    """Mbit/s of each host's link: from it to the next, one after another.

    Raises:
      DuetError: if one did not reach its limit, or exceeds it, in any of a few
        transfers, which another process may have disturbed.
    """
    found = []
    for host, to in zip(hosts, [*hosts[1:], hosts[0]], strict=True):
        pids, speed, wrong = (host.process.pid, to.process.pid), 0.0, ""
        for _ in range(TRANSFERS):
            speed = transfer_mbit(*pids, address(to.rank))
            if not (wrong := fault(host.rank, mbit, speed)):
                break
        if wrong:
            raise DuetError(wrong)
        found.append(round(speed, 3))
    return found


class Windows:
    """What rank 0 had sent at the end of each window that its run has recorded."""

    def __init__(self, run: Path, process: int):
        self.rows: list[dict[str, int]] = []
        self._file, self._process, self._read = run / "metrics.jsonl", process, 0

    def look(self) -> None:
        """Note the windows that have ended since the last look."""
        if not self._file.exists() or self._file.stat().st_size == self._read:
            return
        now = counters(self._process)
        with self._file.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole + end)
        for line in whole.splitlines():
            if line.startswith(b'{"kind": "window"'):
                step = json.loads(line)["step"]
                self.rows.append(
                    {"step": step, "bytes": now.bytes, "packets": now.packets}
                )


def variables(rank: int, processes: int) -> dict[str, str]:
    """What tells a process its rank: torchrun's, of nodes with one process each."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": host_name(0),
        "MASTER_PORT": MASTER_PORT,
        "GLOO_SOCKET_IFNAME": PORT,
    }


def cores_of_rank(own: list[int], rank: int, each: int) -> list[int]:
    """The cores of a process; where there are too few, several share them.

    >>> [cores_of_rank([4, 5], rank, 1) for rank in range(3)]
    [[4], [5], [4]]
    """
    return sorted({own[(rank * each + n) % len(own)] for n in range(each)})


def start_ranks(hosts: list[Host], cores: int, script: list[str]) -> list[Any]:
    """Start the run's processes, each on its host and its cores."""
    own, ranks = sorted(os.sched_getaffinity(0)), []
    environ = {name: v for name, v in os.environ.items() if name != STUDY}
    for host in hosts:
        os.sched_setaffinity(0, cores_of_rank(own, host.rank, cores))
        ranks.append(
            subprocess.Popen(
                [*host.enter, sys.executable, *script],
                cwd=ROOT,
                env=environ | variables(host.rank, len(hosts)),
                stdin=subprocess.DEVNULL,
            )
        )
    os.sched_setaffinity(0, own)
    return ranks


def wait(ranks: list[Any], windows: Windows, study: int | None) -> int:
    """Until all processes have ended, or the study has; returns the worst status.

    Args:
      study: descriptor of its process; None: there is none to end with.
    """
    last = None
    while True:
        statuses = [rank.poll() for rank in ranks]
        windows.look()
        failed = [abs(status) for status in statuses if status]
        if None not in statuses:
            return max(failed, default=0)
        if failed and last is None:  # the others may say more of it
            last = time.monotonic() + GRACE_SECONDS
        if last is not None and time.monotonic() > last:
            return max(failed)
        if study is not None and select.select([study], [], [], 0)[0]:
            raise DuetError("the study has ended, and this run with it")
        time.sleep(LOOK_SECONDS)


@dataclass(frozen=True)
class Given:
    """The command line.

    Args:
      mbit: of each link, or `unlimited`.
      cores: of each process.
      run: folder of the run.
      script: what each process runs by Python, in words.
    """

    mbit: int | str
    processes: int
    cores: int
    run: Path
    script: list[str]

    @classmethod
    def of(cls, words: list[str]) -> "Given":
        """From the words of a command line.

        Raises:
          ConfigError: if any is missing, or not a number.

        >>> Given.of(["--mbit=9", "--processes=2", "--cores=1", "--run=a", "-c", ""])
        Given(mbit=9, processes=2, cores=1, run=PosixPath('a'), script=['-c', ''])
        """
        own = r"--(mbit|processes|cores|run)=(.+)"
        count = next(n for n, w in enumerate([*words, ""]) if not re.match(own, w))
        found = dict(re.findall(own, "\n".join(words[:count])))
        try:
            mbit = found["mbit"]
            return cls(
                mbit if mbit == UNLIMITED else int(mbit),
                int(found["processes"]),
                int(found["cores"]),
                Path(found["run"]),
                words[count:],
            )
        except (LookupError, ValueError) as error:
            raise ConfigError(f"{' '.join(words[:4])}: write {USAGE}") from error


def inside(given: Given) -> int:
    """Make the hosts, measure their links and run; in a PID namespace of its own."""
    # The first process of a namespace ignores what it does not handle.
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda *_: os._exit(1))
    study = int(os.environ[STUDY]) if STUDY in os.environ else None
    made = make_hosts(given.processes, given.mbit)
    speeds = measure(made, given.mbit)
    own = len(os.sched_getaffinity(0))
    ranks = start_ranks(made, given.cores, given.script)
    windows = Windows(given.run, made[0].process.pid)
    status = wait(ranks, windows, study)
    if status == 0:
        limit = given.mbit if isinstance(given.mbit, int) else None
        found = {
            "schema_version": 1,
            "asked_mbit": given.mbit,
            "measured_mbit": speeds,
            "expected": limit and [LEAST, MOST],
            "congestion_control": CONGESTION,
            "burst_bytes": limit and burst_bytes(limit),
            "queue_bytes": limit and queue_bytes(limit),
            "processes_per_core": max(1.0, given.processes * given.cores / own),
            "windows": windows.rows,
        }
        write_whole(given.run / FILE, to_json(found))
    return status


def enter(words: list[str]) -> None:
    """Become a process in new namespaces that runs `inside`.

    Raises:
      ConfigError: if this machine has none.
    """
    if reason := why_not():
        raise ConfigError(reason)
    if STUDY in os.environ:  # its number means nothing inside
        study = os.pidfd_open(int(os.environ[STUDY]))
        os.set_inheritable(study, True)
        os.environ[STUDY] = str(study)
    os.environ["PATH"] = path()
    os.chdir(ROOT)
    own = [sys.executable, "-m", "launch.links", INSIDE, *words]
    os.execvp(NAMESPACES[0], [*NAMESPACES, *own])


def main() -> None:
    words = sys.argv[1:]
    try:
        if words[:1] == [INSIDE]:
            raise SystemExit(inside(Given.of(words[1:])))
        Given.of(words)  # refused before any namespace is made
        enter(words)
    except DuetError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_status) from None


if __name__ == "__main__":
    main()
