"""Real runs, each trained once for all the tests that look at it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import NO_GPU, ROOT, clean_environment
from tests.faults.ranks import free_port
from tests.launch.quick_python import FAULTY
from tests.launch.slurm_cluster import SlurmCluster, why_not

# A network with batch normalisation, small enough to compile in a moment.
PLANTED = Path(__file__).parent.parent / "twins" / "planted"
NORMED = [
    *("model=custom", f"model.folder={PLANTED}", "data=synthetic"),
    *("data.image_shape=[8,8,1]", "train.global_batch_size=16"),
    *("data.train_examples=128", "data.test_examples=40"),
]
SCRIPTS = {"torch": "launch/pytorch.py", "jax": "launch/jax.py"}


@pytest.fixture(params=["torch", "jax"], scope="session")
def framework(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def script(framework) -> str:
    return SCRIPTS[framework]


def torchrun(processes: int, script: str) -> list[str]:
    standalone = ["-m", "torch.distributed.run", "--standalone"]
    return [*standalone, f"--nproc-per-node={processes}", script]


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One clear error on stderr, exit status 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.fixture(scope="session")
def forked(
    quick_python, data_folder, tmp_path_factory
) -> Callable[..., tuple[list[int], str]]:
    """`forked("jax", "train.steps=9", processes=2)`: its ranks' statuses, and output.

    Each is the script that a user starts, without the seconds that imports take.
    """

    def forked(framework: str, *overrides: str, processes: int = 1, **variables: str):
        environment = clean_environment() | NO_GPU
        environment |= {"DUET_DATA": str(data_folder), "WANDB_MODE": "offline"}
        environment |= {"GLOO_SOCKET_IFNAME": "lo"}
        port, ranks = free_port(), []
        said = tmp_path_factory.mktemp("forked") / "said"
        with ExitStack() as stack:
            for rank in range(processes):
                place = torchruns(rank, processes, port) if processes > 1 else {}
                output = stack.enter_context(said.open("a"))
                process = subprocess.Popen(
                    [quick_python, SCRIPTS[framework], *overrides],
                    cwd=ROOT,
                    env=environment | place | variables,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
                stack.callback(process.wait)
                stack.callback(process.kill)
                ranks.append(process)
            return [rank.wait(600) for rank in ranks], said.read_text()

    return forked


def torchruns(rank: int, processes: int, port: int) -> dict[str, str]:
    """The variables that torchrun gives a rank on one machine."""
    return {
        **{"RANK": str(rank), "WORLD_SIZE": str(processes)},
        **{"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }


@pytest.fixture(scope="session")
def run_planted(run_quickly) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_planted(code, "launch/jax.py", "train.steps=9")`: with code run first.

    Once the twin is imported, in the process that trains.
    """

    def run(code: str, script: str, *overrides: str):
        return run_quickly([FAULTY, script, *overrides], DUET_FAULT=code)

    return run


@pytest.fixture(scope="session")
def train(forked, tmp_path_factory) -> Callable[..., Path]:
    """`train("jax", "train.steps=9", processes=2)`: the folder of a good run.

    The same one whenever it is asked for again, so it is left as it is. Its ranks are
    forked; tests/test_readme.py starts some by python and torchrun, as a user does.
    """

    @cache
    def train(framework: str, *overrides: str, processes: int = 1, **variables) -> Path:
        folder = tmp_path_factory.mktemp("run") / "run"
        given = f"run.dir={folder}", *overrides
        statuses, said = forked(framework, *given, processes=processes, **variables)
        assert statuses == [0] * processes, said
        return folder

    return train


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory) -> Iterator[SlurmCluster]:
    """Two nodes for the whole session; skipped, with the reason, where none can be.

    But not where CI runs on Debian: a launcher left untested should be seen.
    """
    if reason := why_not():
        if os.environ.get("CI") and Path("/etc/debian_version").exists():
            pytest.fail(f"{reason}; .ci/run is to run as root", pytrace=False)
        pytest.skip(reason)
    data = {"DUET_DATA": str(tmp_path_factory.mktemp("data"))}
    with SlurmCluster(clean_environment() | NO_GPU | data) as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster) -> Iterator[SlurmCluster]:
    """The cluster, without a job before and after."""
    yield slurm_cluster
    slurm_cluster.clear()
