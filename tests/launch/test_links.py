"""Runs over real links in network namespaces, and what is left of these: nothing."""

import contextlib
import itertools
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import cluster, hosts, links
from recipe.cluster import ClusterConfig
from recipe.errors import DuetError
from recipe.links import Sent, exchanged_bytes
from record.run import read_environment, read_summary
from report.analysis.links import read_link
from tests.conftest import NO_GPU, ROOT, clean_environment

MBIT = 50
STEPS = 6
STEP_1 = '{"kind": "step", "step": 1}\n'
WINDOW_1, WINDOW_2 = (f'{{"kind": "window", "step": {n}}}\n' for n in (1, 2))
# 1.6 MB of gradients, far more than all else that ranks tell each other.
RECIPE = ("experiment=digits_mlp", "model.hidden=[512]", f"train.steps={STEPS}")


@pytest.fixture(scope="module")
def possible():
    if reason := hosts.why_not():
        pytest.skip(reason)


def started(folder: Path, *script: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*links.command(MBIT, 2, 1, folder), *script],
        cwd=ROOT,
        env=clean_environment() | NO_GPU | {"OMP_NUM_THREADS": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("framework", "strategy", "every"), [("pytorch", "dp", 1), ("jax", "local_sgd", 2)]
)
def test_a_run_s_exchanges_are_counted_on_its_link(
    possible, framework, strategy, every, tmp_path
):
    folder = tmp_path / "run"
    run = started(
        folder,
        *(f"launch/{framework}.py", *RECIPE, "devices=2", "platform=cpu"),
        *(f"train.log_every_steps={every}", "train.evaluate_every_epochs=0"),
        *(f"parallel={strategy}", *[f"parallel.every={every}"] * (every > 1)),
        *("parallel.cores_per_device=1", f"run.dir={folder}"),
    )
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said
    summary, environment = read_summary(folder), read_environment(folder)
    assert (summary["processes"], environment["host"]) == (2, "duet-0")
    link = read_link(folder, environment)
    assert link is not None and link.asked == MBIT and len(link.measured) == 2
    assert [step for step, _ in link.sent] == list(range(every, STEPS + 1, every))
    counted = link.bytes_per_exchange(every)
    assert counted == pytest.approx(
        exchanged_bytes(4 * summary["parameters"], 2), rel=0.02
    )
    (folder / "link.json").unlink()
    with pytest.raises(DuetError, match="is not known without link.json"):
        read_link(folder, environment)


def namespaces(of: int) -> set[str]:
    """The network namespaces of a process's descendants, but for this one's."""
    own, found = os.readlink("/proc/self/ns/net"), set()
    for process in [of, *descendants(of)]:
        with contextlib.suppress(OSError):  # it has ended
            found.add(os.readlink(f"/proc/{process}/ns/net"))
    return found - {own}


def descendants(of: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{of}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def in_use(spaces: set[str]) -> set[str]:
    """Those that any process is still in."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(process / "ns" / "net"))
    return found & spaces


@pytest.mark.parametrize("killed", ["the study", "the first process", "the run's own"])
def test_no_namespace_outlives_what_was_killed(possible, killed, tmp_path):
    sleep = "import time; print('ready', flush=True); time.sleep(600)"
    with (
        subprocess.Popen(["sleep", "600"]) as study,
        started(tmp_path, "-c", sleep, **{links.STUDY: str(study.pid)}) as run,
    ):
        try:
            assert run.stdout is not None and "ready" in run.stdout.readline()
            spaces = namespaces(run.pid)
            assert len(spaces) == 3  # a switch and two hosts
            inside = descendants(run.pid)[0]
            victims = {"the study": study.pid, "the run's own": run.pid}
            os.kill(victims.get(killed, inside), signal.SIGKILL)
            assert run.wait(timeout=60) != 0
            deadline = time.monotonic() + 30
            while in_use(spaces) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not in_use(spaces)
        finally:
            run.kill()
            study.kill()


def test_a_run_knows_the_study_that_it_ends_with(monkeypatch, tmp_path):
    submitted = []

    class Executor:
        def __init__(self, folder: Path):
            pass

        def update_parameters(self, **_: object) -> None:
            pass

        def submit(self, *call: object) -> SimpleNamespace:
            submitted.append(call)
            return SimpleNamespace(done=lambda: True)

    monkeypatch.setattr(cluster.submitit, "LocalExecutor", Executor)
    monkeypatch.setenv("PYTHONPATH", "")
    work = cluster.Work("run", ["true"], ["true"], 1, 1, tmp_path / "run.log")
    local = ClusterConfig(name="local")
    list(cluster.run(local, [work], 1, tmp_path, print, lambda _: None))
    _, _, variables, *_ = submitted[0]
    assert variables[links.STUDY] == str(os.getpid())


def test_a_link_that_is_too_slow_ends_the_run_with_its_figures(monkeypatch):
    host = hosts.Host(0, subprocess.Popen(["true"], text=True))
    host.process.wait()
    monkeypatch.setattr(links, "transfer_mbit", lambda *_: 61.0)
    with pytest.raises(DuetError, match=r"limited to 100 Mbit/s and carried 61, .*90%"):
        links.measure([host, host], 100)
    assert links.measure([host, host], "unlimited") == [61.0, 61.0]


def test_without_root_or_tools_one_reason_is_given(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert hosts.why_not() == "links need root, for network namespaces"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(hosts, "path", lambda: str(tmp_path))
    assert "missing: ip, tc, unshare" in hosts.why_not()


def test_windows_are_read_as_they_are_written(monkeypatch, tmp_path):
    numbers = itertools.count(1)
    monkeypatch.setattr(links, "counters", lambda _: Sent(next(numbers), 0))
    windows = links.Windows(tmp_path, os.getpid())
    windows.look()  # before there is a file
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for text in (STEP_1 + WINDOW_1, "", WINDOW_2[:20], WINDOW_2[20:]):
            file.write(text)
            file.flush()
            windows.look()
    assert [row["step"] for row in windows.rows] == [1, 2]
    # Noted when its line is whole, by the counters of that look.
    assert [row["bytes"] for row in windows.rows] == [1, 3]


def test_processes_have_cores_of_their_own_where_there_are_enough():
    assert [links.cores_of_rank([0, 1, 4, 5], rank, 2) for rank in (0, 1)] == [
        *([0, 1], [4, 5])
    ]
    assert [links.cores_of_rank([0, 1], rank, 1) for rank in range(4)] == [
        *([0], [1], [0], [1])
    ]
