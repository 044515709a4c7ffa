"""Ranks forked from a process that has imported a framework already.

    python tests/faults/forks.py torch|jax

An import takes ten seconds, a fork a hundredth of one, and from there on a rank is the
script that a user starts: its arguments, variables, signals and files. Orders come in
as lines of JSON, and what became of them goes out the same way.
"""

import contextlib
import json
import os
import runpy
import selectors
import shutil
import signal
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {"torch": "launch/pytorch.py", "jax": "launch/jax.py"}


def main(framework: str) -> None:
    sys.path[0] = str(ROOT)
    os.chdir(ROOT)
    for name in "launch.train", f"{framework}_impl.train":
        import_module(name)
    import_what_a_run_does(framework)
    orders = selectors.DefaultSelector()
    orders.register(sys.stdin.fileno(), selectors.EVENT_READ)
    rest = b""
    while True:
        if orders.select(timeout=0.02):
            content = os.read(sys.stdin.fileno(), 1 << 16)
            if not content:
                break
            *lines, rest = (rest + content).split(b"\n")
            for line in lines:
                order = json.loads(line)
                told = {"order": order["order"], "process": fork(framework, order)}
                print(json.dumps(told), flush=True)
        for _ in range(64):
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if process == 0:
                break
            told = {"process": process, "status": os.waitstatus_to_exitcode(status)}
            print(json.dumps(told), flush=True)


LIST = """
import atexit, json, sys
from pathlib import Path
atexit.register(lambda: Path({!r}).write_text(json.dumps(list(sys.modules))))
"""


def import_what_a_run_does(framework: str) -> None:
    """Also what is imported late, as a small run in a fork tells."""
    folder = Path(tempfile.mkdtemp())  # no context manager: forks would end it
    names = folder / "modules.json"
    order = {
        "output": str(folder / "output"),
        "variables": {},
        "arguments": [f"run.dir={folder}/run", "train.steps=1"],
        "fault": LIST.format(str(names)),
    }
    os.waitpid(fork(framework, order), 0)
    for name in json.loads(names.read_text()):
        if name != "__main__" and name not in sys.modules:
            with contextlib.suppress(Exception):
                import_module(name)
    shutil.rmtree(folder)


def fork(framework: str, order: dict) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        output = os.open(order["output"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(order["variables"])
        sys.argv = [SCRIPTS[framework], *order["arguments"]]
        if order["fault"]:
            exec(order["fault"], {})  # noqa: S102 our own tests' text
        runpy.run_path(str(ROOT / SCRIPTS[framework]), run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        leave(status)
    raise AssertionError


def leave(status: int) -> None:
    """As the interpreter does at its end: a fork has none of its own."""
    import atexit

    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(sys.argv[1])
