"""An interpreter that has imported what scripts of launch/ need: a start is a fork.

    python tests/launch/quick_python.py CLIENT ...    # what `quick_python` runs
    python tests/launch/quick_python.py SERVER ...    # what its client starts, once

Imports take seconds, and a parity check or a study starts a dozen processes. The client
stands in for the interpreter. It hands a script of launch/, or torchrun, to the server
that has imported it: with its arguments, folder, environment and three files. It hands
signals on, ends with the status, and when it is killed so is the fork. Whatever else it
is to run it leaves to the interpreter. Forks start others the same way.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "launch/pytorch.py": "torch",
    "launch/jax.py": "jax",
    "launch/evaluate.py": "neither",
    "launch/export.py": "neither",
    "launch/own.py": "neither",
    "launch/parity.py": "neither",
    "launch/predict.py": "neither",
    "launch/study.py": "neither",
}
FAULTY = "tests/faults/faulty.py"  # makes something go wrong in what follows it
MODULES = {
    ("-m", "torch.distributed.run"): "torch",
    ("-m", "launch.evaluate_twin", "torch"): "torch",
    ("-m", "launch.evaluate_twin", "jax"): "jax",
    ("-m", "data.acquire"): "torch",  # of which torchvision is a part
    ("-m", "launch.export_twin", "torch"): "torch",
    ("-m", "launch.export_twin", "jax"): "jax",
    ("-m", "launch.own_twin", "torch"): "torch",
    ("-m", "launch.own_twin", "jax"): "jax",
}
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1


def write_client(python: Path, folder: Path, owner: int) -> None:
    """A program that is used as the interpreter is, and is one that is quick.

    Args:
      folder: of the servers' sockets.
      owner: id of the process with which the servers end.
    """
    words = sys.executable, "-IS", __file__, "CLIENT", python, folder, owner
    quoted = " ".join(f"'{word}'" for word in words)
    python.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
    python.chmod(0o755)


def client(python: str, folder: str, owner: str, *arguments: str) -> None:
    plain = [a for a in arguments if a != "-u"]
    kind = kind_of(plain)
    if kind is None:
        os.execv(sys.executable, [sys.executable, *arguments])
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    ignored = [n for n in SIGNALS if signal.getsignal(n) is signal.SIG_IGN]
    order = {
        "arguments": plain,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "ignored": ignored,
        "python": python,
    }
    with connected(kind, folder, owner) as server, server.makefile() as answers:
        text = json.dumps(order).encode()
        socket.send_fds(server, [len(text).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(text)
        process = int(answers.readline())
        for number in set(SIGNALS) - set(ignored):
            signal.signal(number, lambda number, _: os.kill(process, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        status = int(answers.readline())
    if status < 0:
        if status != -signal.SIGKILL:  # which has no handler to set
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def kind_of(arguments: list[str]) -> str | None:
    """Whose server these are for: "torch", "jax" or "neither"; None of no server."""
    places = [os.path.relpath(os.path.abspath(word), ROOT) for word in arguments[:2]]
    if places and places[0] == FAULTY:
        places = places[1:]
    module = MODULES.get(tuple(arguments[:2])) or MODULES.get(tuple(arguments[:3]))
    return module or KINDS.get(places[0] if places else "")


def connected(kind: str, folder: str, owner: str) -> socket.socket:
    """To the server, which is started if there is none."""
    address = f"{folder}/{kind}"
    try:
        return _connect(address)
    except OSError:
        with open(f"{address}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _started(kind, address, owner)


def _connect(address: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(address)
    except OSError:
        server.close()
        raise
    return server


def _started(kind: str, address: str, owner: str) -> socket.socket:
    process = None
    while process is None or process.poll() is None:
        try:
            return _connect(address)
        except OSError:  # nobody has started it, or it imports
            time.sleep(0.02)
        if process is None:
            command = [sys.executable, __file__, "SERVER", kind, address, owner]
            # It is for all tests: it has the environment of none, and no home's data.
            environment = {
                "PATH": os.environ.get("PATH", os.defpath),
                "CUDA_VISIBLE_DEVICES": "",
                "DUET_DATA": f"{address}.data",
                "JAX_COMPILATION_CACHE_DIR": f"{address}.compiled",
                "JAX_PLATFORMS": "cpu",
                "OMP_NUM_THREADS": "1",
                "TORCHINDUCTOR_COMPILE_THREADS": "1",
            }
            with open(f"{address}.log", "w") as log:
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                )
    raise SystemExit(f"no server, see {address}.log")


def server(kind: str, address: str, owner: str) -> None:
    import selectors
    import shutil
    from importlib import import_module

    sys.path[0] = str(ROOT)
    from tests.faults.forks import import_what_a_run_does

    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if kind == "neither":
        names = ("launch.evaluate", "launch.own", "launch.parity", "launch.study")
    else:
        names = "launch.train", f"{kind}_impl.train"
    for name in names:
        import_module(name)
    if kind == "neither":
        import_module("matplotlib.pyplot")
    else:
        import_what_a_run_does(kind)
    forks: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as door, selectors.DefaultSelector() as all_ends:
        with contextlib.suppress(FileNotFoundError):  # of one that was killed
            os.unlink(address)
        door.bind(address)
        door.listen(64)
        all_ends.register(door, selectors.EVENT_READ)
        while _runs(int(owner)):
            for key, _ in all_ends.select(0.01 if forks else 1):
                if key.fileobj is door:
                    client, _ = door.accept()
                    with contextlib.suppress(OSError, ValueError):
                        process = fork(client, [door, *forks.values()])
                        forks[process] = client
                        all_ends.register(client, selectors.EVENT_READ, process)
                        client.sendall(f"{process}\n".encode())
                elif key.data in forks:  # it has nothing more to say, so it has ended
                    all_ends.unregister(key.fileobj)
                    kill(key.data)
            while forks:
                process, status = os.waitpid(-1, os.WNOHANG)
                if process == 0:
                    break
                client = forks.pop(process)
                with contextlib.suppress(OSError):
                    client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                with contextlib.suppress(KeyError):
                    all_ends.unregister(client)
                client.close()
        for process in forks:
            kill(process)
    shutil.rmtree(os.path.dirname(address), ignore_errors=True)


def kill(process: int) -> None:
    """A fork, and what came of it: torchrun's ranks are clients, each with a fork."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(process)
        for member in [first, *first.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def fork(client: socket.socket, others: list[socket.socket]) -> int:
    """The process of what is ordered.

    Raises:
      OSError, ValueError: of a client that was killed before it had said it all.
    """
    length, files, *_ = socket.recv_fds(client, 4, 3)
    text, size = b"", int.from_bytes(length, "big")
    while len(text) < size:
        if not (part := client.recv(size - len(text))):
            break
        text += part
    order = json.loads(text)
    process = os.fork()
    if process == 0:
        for end in (client, *others):
            end.close()
        run(order, files)
    for file in files:
        os.close(file)
    return process


def run(order: dict, files: list[int]) -> None:
    """What the interpreter does with these arguments, and its end."""
    import runpy
    import traceback

    from tests.faults.forks import leave

    status = 1
    try:
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        # Anew, as those that are there take their file for one that can be sought in.
        sys.stdin = os.fdopen(0)
        sys.stdout = os.fdopen(1, "w")
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in order["ignored"]:
            signal.signal(number, signal.SIG_IGN)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        sys.executable = order["python"]
        script, *arguments = order["arguments"]
        if script == "-m":
            module, *arguments = arguments
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            sys.argv = [script, *arguments]
            runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        status = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:
        traceback.print_exc()
    finally:
        leave(status)


if __name__ == "__main__":
    {"CLIENT": client, "SERVER": server}[sys.argv[1]](*sys.argv[2:])
