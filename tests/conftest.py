"""What the tests share: where the repository is, and how a script is run."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from recipe.config import Config, to_config
from recipe.parity import ParityConfig
from tests.launch.quick_python import write_client

ROOT = Path(__file__).resolve().parent.parent

# Where Debian's package dataset-fashion-mnist puts its four files.
FASHION = Path("/usr/share/datasets/fashion-mnist")

# Variables through which a launcher, a scheduler or a user steers a run. A test that
# means one of them sets it.
STEERING = (
    "CUDA_VISIBLE_DEVICES",
    "DUET_",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "HYDRA_",
    "JAX_",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_",
    "OMPI_",
    "PET_",
    "PMI_",
    "PMIX_",
    "PYTHONPATH",
    "RANK",
    "ROLE_",
    "SLURM_",
    "TORCH_",
    "TORCHELASTIC_",
    "WANDB_",
    "WORLD_SIZE",
    "XLA_",
)
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
GPU = {k: v for k, v in os.environ.items() if k == "CUDA_VISIBLE_DEVICES"}


# Compiled steps outlast the session, as they do for a user, but not in his home.
CACHE = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax")}


def clean_environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(STEERING)}
    return kept | CACHE


# This process also imports frameworks, before any fixture could run. GPUs belong to the
# processes that ask for them; memory held here would be missing there. Each has one
# thread of PyTorch's unless a test asks for more: several wait for each other by
# spinning, and where processes share the cores that takes longer than the work. And
# torch.compile has none that help it, each of which would import PyTorch.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
os.environ.update(NO_GPU | ONE_THREAD)


def exhaustive_but(kept: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Cases for parametrize, of which `make test` runs only those that are kept."""
    cases = list(cases)
    assert all(case in cases for case in kept), f"{kept} are not all of {cases}"
    return [
        case
        if case in kept
        else pytest.param(
            *(case if isinstance(case, tuple) else [case]), marks=pytest.mark.exhaustive
        )
        for case in cases
    ]


# What is waited for longest comes first, or workers are idle at the end.
FIRST = ("tests/launch/", "tests/faults/", "tests/runtime/", "tests/twins/")
COLLECTED = pytest.StashKey[list[pytest.Item]]()
FRAMEWORK = {"torch", "jax"}


def _parameters(item: pytest.Item) -> list[str]:
    """A test's parameters that are words."""
    given = item.callspec.params if isinstance(item, pytest.Function) else {}
    return [value for value in given.values() if isinstance(value, str)]


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    for item in items:
        quick = item.get_closest_marker("quick_in")
        if quick and FRAMEWORK & (set(_parameters(item)) - set(quick.args)):
            item.add_marker(pytest.mark.exhaustive)
    config.stash[COLLECTED] = list(items)  # before -m leaves any out
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))
    if "gpu" in config.option.markexpr:
        return  # asked for: without a GPU they fail instead of passing unnoticed
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU: make gpu"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """The folder of Debian's Fashion-MNIST files.

    Elsewhere a test that needs them is skipped, but not where CI runs on Debian: real
    data left untested should be seen.
    """
    if (FASHION / "train-images-idx3-ubyte.gz").exists():
        return FASHION
    lacks = f"needs {FASHION}, from Debian's package dataset-fashion-mnist"
    if os.environ.get("CI") and Path("/etc/debian_version").exists():
        pytest.fail(f"{lacks}; .ci/run installs it as root", pytrace=False)
    pytest.skip(lacks)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program.

    Elsewhere a test that needs it is skipped, but not where CI runs on Debian: a page
    that no browser has opened should be seen.
    """
    if program := shutil.which("chromium") or shutil.which("google-chrome"):
        return program
    if os.environ.get("CI") and Path("/etc/debian_version").exists():
        pytest.fail("needs Debian's chromium; .ci/run installs it as root", False)
    pytest.skip("needs Debian's package chromium")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where datasets are decoded into, once in a session."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def run_python(
    data_folder: Path,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_python(["launch/jax.py", "train.steps=3"], gpu=False, DUET_DATA=folder)`.

    Runs this interpreter with these arguments, in the repository, with nothing of the
    surrounding launcher, W&B offline, and data under one folder for the whole session.

    Args:
      args: what follows `python`: a script, or -c or -m, and its arguments.
      gpu: whether the process may see GPUs.
      cwd: another folder to run in.
      python: what stands in for this interpreter.
      timeout: seconds; then the process and those it started are killed.
      variables: environment variables by name, set last; None unsets one.
    """

    def run(
        args: list[str | Path],
        *,
        gpu: bool = False,
        cwd: Path = ROOT,
        python: str | Path | None = None,
        timeout: float = 600,
        **variables: str | Path | None,
    ) -> subprocess.CompletedProcess[str]:
        environment = clean_environment() | {
            "DUET_DATA": str(data_folder),
            "WANDB_MODE": "offline",
            **(GPU if gpu else NO_GPU),
        }
        for name, value in variables.items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = str(value)
        command = [str(python or sys.executable), *map(str, args)]
        with subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that the ranks of a launcher die with it
        ) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def quick_python() -> Path:
    """Stands in for the interpreter, without the seconds that imports take.

    Its servers are shared by pytest-xdist's workers, and end with what started those.
    """
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    folder = Path(tempfile.gettempdir()) / f"duet-python-{os.getuid()}-{owner}"
    folder.mkdir(0o700, exist_ok=True)
    python = folder / f"python-{os.getpid()}"
    write_client(python, folder, owner)
    return python


@pytest.fixture(scope="session")
def run_quickly(run_python, quick_python):
    """`run_python` where the start of the interpreter is not what is tested."""
    return functools.partial(run_python, python=quick_python)


@pytest.fixture(scope="session")
def compose(root: Path) -> Callable[..., DictConfig]:
    """`compose("experiment=digits_cnn", "train.seed=1")`: what Hydra makes of it."""

    @functools.cache  # Hydra takes a twentieth of a second
    def compose(*overrides: str, schema: type[Config] = Config) -> DictConfig:
        ConfigStore.instance().store("schema", node=schema)
        name = "parity" if schema is ParityConfig else "config"
        with hydra.initialize_config_dir(str(root / "conf"), version_base="1.3"):
            return hydra.compose(name, list(overrides))

    return compose


@pytest.fixture(scope="session")
def config(root: Path, compose) -> Callable[..., Config]:
    """`config("experiment=digits_cnn", "train.seed=1")`, checked.

    Hydra chooses from the groups; single values are merged into its choice, which gives
    the same and is quicker.
    """
    groups = {folder.name for folder in (root / "conf").iterdir() if folder.is_dir()}

    def config(*overrides: str, schema: type[Config] = Config) -> Config:
        chosen = [o for o in overrides if o.lstrip("~").partition("=")[0] in groups]
        values = OmegaConf.from_dotlist([o for o in overrides if o not in chosen])
        merged = OmegaConf.merge(compose(*chosen, schema=schema), values)
        return to_config(merged, schema)

    return config


@pytest.fixture
def make_config(compose) -> Callable[..., Config]:
    def make(*overrides: str) -> Config:
        return to_config(compose(*overrides))

    return make
