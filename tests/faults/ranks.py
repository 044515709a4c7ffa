"""Real runs of several processes, in which something is made to go wrong."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.conftest import NO_GPU, ROOT, clean_environment

FORKS = Path(__file__).with_name("forks.py")


@dataclass
class Ranks:
    """The processes of one run.

    Args:
      processes: ids by rank.
      outputs: what each prints.
    """

    forks: "Forks"
    processes: list[int]
    outputs: list[Path]

    def wait(self, seconds: float = 120) -> list[int | None]:
        """Their exit statuses, None for one that is still there then."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            statuses = [self.forks.statuses.get(p) for p in self.processes]
            if None not in statuses:
                break
            time.sleep(0.02)
        return [self.forks.statuses.get(p) for p in self.processes]

    def said(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.outputs)

    def send(self, number: int, ranks: Sequence[int] | None = None) -> None:
        for rank, process in enumerate(self.processes):
            wanted = ranks is None or rank in ranks
            if wanted and self.forks.statuses.get(process) is None:
                os.kill(process, number)

    def end(self) -> None:
        """SIGKILL for all that are left."""
        self.send(signal.SIGKILL)
        self.wait(30)


@dataclass
class Forks:
    """A process that has imported a framework and forks ranks; a context manager.

    Args:
      framework: "torch" or "jax".
      prefix: what its command is started by, such as unshare.
      cache: of compiled steps; one of its own where none is given.
    """

    framework: str
    data: Path
    prefix: list[str] = field(default_factory=list)
    cache: str = ""
    statuses: dict[int, int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        loopback = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        self._folder = tempfile.TemporaryDirectory()
        # What is compiled is the same in every run.
        compiled = {
            "JAX_COMPILATION_CACHE_DIR": self.cache or self._folder.name,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self._process = subprocess.Popen(
            [*self.prefix, sys.executable, str(FORKS), self.framework],
            cwd=ROOT,
            env=clean_environment()
            | NO_GPU
            | loopback
            | compiled
            | {"DUET_DATA": str(self.data), "WANDB_MODE": "offline"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: dict[int, int] = {}
        self._orders = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "status" in told:
                self.statuses[told["process"]] = told["status"]
            else:
                self._answers[told["order"]] = told["process"]

    def start(
        self,
        *arguments: str,
        processes: int = 2,
        faults: dict[int, str] | None = None,
        **variables: str,
    ) -> Ranks:
        """Start a run's ranks.

        Args:
          arguments: of the training script.
          faults: rank -> Python that it runs first.
          variables: of their environment.
        """
        ranks, outputs = [], []
        self._orders += 1
        port = free_port()
        for rank in range(processes):
            place: dict[str, Any] = {}
            if processes > 1:
                place = {
                    "RANK": rank,
                    "LOCAL_RANK": rank,
                    "WORLD_SIZE": processes,
                    "LOCAL_WORLD_SIZE": processes,
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                }
            output = Path(self._folder.name, f"{self._orders}-{rank}.txt")
            order = self._orders * 100 + rank
            told = {
                "order": order,
                "arguments": list(arguments),
                "variables": {k: str(v) for k, v in (place | variables).items()},
                "fault": (faults or {}).get(rank, ""),
                "output": str(output),
            }
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()
            while order not in self._answers:
                if self._process.poll() is not None:
                    raise RuntimeError("the process that forks ranks has ended")
                time.sleep(0.005)
            ranks.append(self._answers[order])
            outputs.append(output)
        return Ranks(self, ranks, outputs)

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._folder.cleanup()


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
