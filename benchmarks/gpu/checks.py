"""What a part of `make gpu` has checked so far, kept in its file, and how it does so.

A part holds no framework: whatever needs one is a process that it starts.
"""

import json
import os
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.products import wrong
from benchmarks.gpu.summary import FAILED, RUNNING
from launch.children import ROOT
from launch.trainings import ERRORS, SCRIPTS, quoted
from record.disk import to_json, write_whole
from record.schema import strict_json

PASSED, NEEDS_GPU, NOT_AVAILABLE = "passed", "needs a GPU", "not available"
FRAMEWORKS = ("torch", "jax")
LACKS = "is not available on device cpu"  # as a twin refuses a precision
REFUSED = 2  # the exit status of an invalid request

# What a CPU trains in seconds, in place of a recipe's own shapes.
TINY = (
    *("task.image_shape=[8,8,3]", "model.width=0.0625", "train.global_batch_size=16"),
    *("data.train_examples=64", "data.test_examples=32", "data.augment.pad_crop=1"),
    *("data.augment.cutout=2", "optim.peak_lr=0.02"),
)
RESNET9 = ("experiment=cifar10_resnet9", "data=synthetic")


class Failed(Exception):
    """A check that did not pass.

    Args:
      facts: what was measured all the same.
    """

    def __init__(self, why: str, **facts: Any):
        super().__init__(why)
        self.facts = facts


class Omitted(Exception):
    """A check that cannot be made here; it did not pass."""

    status = NOT_AVAILABLE


class NeedsGpu(Omitted):
    """A check that a rehearsal cannot make."""

    status = NEEDS_GPU


class Checks:
    """The checks of a part.

    Args:
      name: of the part.
      folder: of the whole command; its file `<name>.json` is there, and the output of
        this process and of those that it starts is its `<name>.log`.
      rehearsal: whether all is done in tiny shapes on a CPU.

    Attributes:
      folder: for what the part's runs write.
    """

    def __init__(self, name: str, folder: Path, rehearsal: bool):
        self.rehearsal, self.folder = rehearsal, folder / name
        self._file, self._log = folder / f"{name}.json", folder / f"{name}.log"
        self._record = json.loads(self._file.read_text())
        self.platform = "cpu" if rehearsal else "gpu"
        self.resnet9 = [*RESNET9, *(TINY if rehearsal else ())]

    def check(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> None:
        """Make one check and record it; whatever it raises does not stop the next.

        Args:
          measure: returns what is to be recorded.
        """
        begin = time.monotonic()
        self._put(name, {"status": RUNNING})
        try:
            result = {"status": PASSED, **measure()}
        except Omitted as omitted:
            result = {"status": omitted.status, "why": str(omitted)}
        except Failed as failed:
            result = {"status": FAILED, "why": str(failed), **failed.facts}
        except Exception as error:
            traceback.print_exc()
            why = f"{type(error).__name__}: {error}"
            result = {"status": FAILED, "why": why}
        print(f"{name}: {result['status']}", flush=True)
        self._put(name, {**result, "seconds": time.monotonic() - begin})

    def _put(self, name: str, result: dict[str, Any]) -> None:
        self._record["checks"][name] = result
        write_whole(self._file, to_json(strict_json(self._record)))

    @property
    def failed(self) -> bool:
        checks = self._record["checks"].values()
        return any(check["status"] == FAILED for check in checks)

    def needs_gpu(self, why: str) -> None:
        """Omit a check in a rehearsal.

        Raises:
          NeedsGpu: in a rehearsal.
        """
        if self.rehearsal:
            raise NeedsGpu(why)

    def run(
        self,
        arguments: Sequence[str],
        status: int = 0,
        variables: Mapping[str, str | None] = {},  # noqa: B006  (only read)
    ) -> str:
        """Run this interpreter with arguments to its end, and return its output.

        Args:
          status: the exit status that is expected.
          variables: of its environment; None unsets one.

        Raises:
          Failed: if it has another, with its errors or the end of its output.
          NeedsGpu: in a rehearsal, if a CPU lacks the precision.
        """
        print("$ python", shlex.join(arguments), flush=True)
        begin = self._log.stat().st_size
        given = {**os.environ, **variables}
        environment = {k: v for k, v in given.items() if v is not None}
        command = [sys.executable, *arguments]
        done = subprocess.call(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL
        )
        said = self._log.read_bytes()[begin:].decode(errors="replace")
        if done == REFUSED != status and self.rehearsal and LACKS in said:
            raise NeedsGpu(last_errors(said))
        if done != status:
            raise Failed(f"exit status {done}: {last_errors(said)}")
        return said

    def ask(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The JSON object in the last line of a process's output."""
        lines = self.run(arguments).splitlines()
        return json.loads(next(line for line in reversed(lines) if line[:1] == "{"))

    def train(
        self,
        framework: str,
        folder: Path,
        *overrides: str,
        launcher: Sequence[str] = (),
        **variables: str,
    ) -> None:
        """Train in a folder, to the end."""
        given = twin_arguments(framework, self.platform, folder, overrides)
        self.run([*launcher, *given], variables=variables)


def twin_arguments(
    framework: str, platform: str, folder: Path, overrides: Sequence[str]
) -> list[str]:
    """The script that trains, and its overrides."""
    place = [f"platform={platform}", f"run.dir={quoted(folder)}"]
    return [SCRIPTS[framework], *overrides, *place]


def torchrun(processes: int) -> list[str]:
    """What precedes a script or -m that torchrun is to start."""
    ranks = f"--nproc-per-node={processes}"
    return ["-m", "torch.distributed.run", "--standalone", ranks]


def products(checks: Checks, framework: str, precision: str) -> dict[str, Any]:
    """The errors of a framework's products, which must be those of the precision."""
    probe = f"benchmarks.gpu.{framework}_probe"
    said = checks.ask(["-m", probe, "products", checks.platform, precision])
    if found := wrong(precision, said["errors"]):
        raise Failed("; ".join(found), **said)
    return said


def last_errors(said: str) -> str:
    """The lines that are errors, else the last ones."""
    lines = said.strip().splitlines()
    errors = [line for line in lines if line.strip().startswith(ERRORS)]
    return "\n".join(errors[-3:] or lines[-6:]) or "it printed nothing"
