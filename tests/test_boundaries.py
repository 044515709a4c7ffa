"""Who may import whom: the contracts in pyproject.toml, and what really gets loaded.

import-linter reads the sources and so knows the project's own imports; the probe
imports every module in a fresh process and so knows what third parties drag along.
"""

import ast
import functools
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

PYTORCH = {"torch", "torchvision"}
JAX = {"jax", "jaxlib", "flax", "optax"}

# Imports module after module and notes, for each, what came in with it first.
PROBE = """
import importlib, json, sys
watched, loaded = set(sys.argv[1].split(",")), {}
for module in sys.argv[2:]:
    before = watched & sys.modules.keys()
    importlib.import_module(module)
    loaded[module] = sorted((watched & sys.modules.keys()) - before)
print(json.dumps(loaded))
"""

# One import for each contract that breaks it, as (file, statement).
PLANTED = {
    "recipe": ("recipe/schedule.py", "import omegaconf"),
    "runtime": ("runtime/planted.py", "import record"),
    "runtime-users": ("report/planted.py", "import runtime.world"),
    "data": ("data/planted.py", "import torch"),
    "acquire": ("data/planted.py", "import data.acquire"),
    "tfds": ("data/dataset.py", "import data.tfds"),
    "record": ("record/planted.py", "import data"),
    "pth": ("record/planted.py", "import record.pth"),
    "report": ("report/planted.py", "import data"),
    "report-wings": ("report/parity/planted.py", "import report.page.html"),
    "report-circles": ("report/analysis/runs.py", "import report.analysis.cells"),
    "torch": ("torch_impl/planted.py", "import jax"),
    "jax": ("jax_impl/planted.py", "import torch"),
    "tracking": ("launch/planted.py", "import wandb"),
    "hydra": ("record/planted.py", "import hydra"),
    "launch": ("report/planted.py", "import launch"),
    "launch-torch": ("launch/pytorch.py", "import jax_impl.optim"),
    "launch-jax": ("launch/jax.py", "import torch_impl.optim"),
    "launch-parity": ("launch/parity.py", "import torch_impl.optim"),
}


def modules(package: Path) -> list[str]:
    """Every module of a package, the package first."""
    files = sorted(package.rglob("*.py"))
    parts = [f.relative_to(package.parent).with_suffix("").parts for f in files]
    return sorted(".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts)


@pytest.fixture(scope="session")
def loads(root, run_python):
    """`loads("recipe")`: frameworks that its modules load, each with the first to."""

    @functools.cache
    def loads(package, folder=root):
        found = modules(folder / package)
        assert found, f"{folder / package} holds no module"
        done = run_python(
            ["-c", PROBE, ",".join(PYTORCH | JAX), *found], PYTHONPATH=folder
        )
        assert done.returncode == 0, done.stderr
        return {
            framework: module
            for module, frameworks in json.loads(done.stdout).items()
            for framework in frameworks
        }

    return loads


@pytest.fixture(scope="session")
def lint(run_python):
    """`lint(tree)`: import-linter on it; exit status and whatever it printed."""

    def lint(tree, *contracts):
        code = "from importlinter.cli import lint_imports_command as main; main()"
        limits = [word for contract in contracts for word in ("--contract", contract)]
        done = run_python(["-c", code, "--no-cache", *limits], cwd=tree)
        return done.returncode, done.stdout + done.stderr

    return lint


@pytest.fixture
def tree(root, tmp_path):
    """A copy of the packages and their contracts, to plant imports in."""
    for package in contracts(root)["root_packages"]:
        shutil.copytree(
            root / package,
            tmp_path / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy(root / "pyproject.toml", tmp_path)
    return tmp_path


def contracts(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]


@pytest.mark.parametrize("package", ["recipe", "runtime", "data", "record", "report"])
def test_shared_packages_load_no_framework(package, loads):
    assert loads(package) == {}


def test_torch_impl_loads_no_jax(loads):
    assert not loads("torch_impl").keys() & JAX


def test_jax_impl_loads_no_torch(loads):
    assert not loads("jax_impl").keys() & PYTORCH


def test_the_probe_sees_each_framework_where_it_belongs(loads):
    assert "torch" in loads("torch_impl")
    assert loads("jax_impl").keys() >= {"jax", "flax", "optax"}


def test_the_probe_catches_a_planted_import_and_names_its_module(loads, tmp_path):
    (tmp_path / "torch.py").touch()  # stands in for the real one, which takes seconds
    (tmp_path / "planted" / "deeper").mkdir(parents=True)
    (tmp_path / "planted" / "__init__.py").touch()
    (tmp_path / "planted" / "deeper" / "late.py").write_text("import torch\n")
    assert loads("planted", tmp_path) == {"torch": "planted.deeper.late"}


def test_no_run_imports_pillow_that_reads_no_image_file(run_python):
    shown = "launch.train", "data.dataset", "data.inputs"  # predictions read some
    done = run_python(["-c", PROBE, "PIL", *shown])
    assert json.loads(done.stdout) == dict(zip(shown, ([], [], ["PIL"]), strict=True))


def test_recipe_names_no_third_party_but_numpy_jaxtyping_and_omegaconf(root):
    for file in (root / "recipe").rglob("*.py"):
        third_party = imported(file.read_text()) - sys.stdlib_module_names - {"recipe"}
        config = {"omegaconf", "yaml"} if file.name == "config.py" else set()
        assert third_party <= {"numpy", "jaxtyping"} | config, file


def test_imported_names_are_found_wherever_they_stand():
    source = "import os.path as p\ndef f():\n  from pandas.api import types\n"
    assert imported(source) == {"os", "pandas"}


def imported(source: str) -> set[str]:
    """Top-level names of absolute imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).partition(".")[0])
    return names


def test_nothing_is_unpickled_but_an_archive_whose_checksum_holds(root):
    found = {
        str(file.relative_to(root)): names
        for room in contracts(root)["root_packages"]
        for file in (root / room).rglob("*.py")
        if (names := unpickling(file.read_text()))
    }
    assert found == {"data/cifar.py": {"pickle"}}  # `read_cifar` says when


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def f():\n  import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("torch.load(file)", "torch.load"),
        ("torch.load(file, weights_only=False)", "torch.load"),
        ("torch.load(file, weights_only=safe)", "torch.load"),
        ("load = torch.load", "torch.load"),
        ("np.load(file, allow_pickle=True)", "allow_pickle"),
        ("pandas.read_pickle(file)", "pandas.read_pickle"),
    ],
)
def test_whatever_unpickles_would_be_found(source, name):
    assert name in unpickling(source)


def test_what_keeps_to_numbers_is_not_found():
    safe = "np.load(f, allow_pickle=False)", "torch.load(f, weights_only=True)"
    assert [unpickling(source) for source in safe] == [set(), set()]


def unpickling(source: str) -> set[str]:
    """What in a source could execute what it reads."""
    modules = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
    names = imported(source) & modules
    nodes = list(ast.walk(ast.parse(source)))
    tensors_alone = [n.func for n in nodes if isinstance(n, ast.Call) and _is_safe(n)]
    for node in nodes:
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            names |= set() if ast.unparse(node.value) == "False" else {"allow_pickle"}
        elif isinstance(node, ast.Attribute) and node not in tensors_alone:
            names |= {ast.unparse(node)} & {"torch.load", "pandas.read_pickle"}
    return names


def _is_safe(call: ast.Call) -> bool:
    """Whether it is told, in so many words, to unpickle tensors and nothing else."""
    return "weights_only=True" in [ast.unparse(keyword) for keyword in call.keywords]


def test_what_tests_share_is_in_no_test_file(root):
    shared = {
        str(file.relative_to(root)): found
        for room in ("tests", "benchmarks", "launch")
        for file in (root / room).rglob("*.py")
        if (found := from_test_files(file.read_text()))
    }
    assert shared == {}


@pytest.mark.parametrize(
    "rest", ["record.test_run import recipe", "record import test_run"]
)
def test_an_import_of_a_test_file_would_be_found(rest):
    assert from_test_files(f"KILLED = '''\nfrom tests.{rest}\n'''")
    assert not from_test_files("from tests.record.runs import recipe")


def from_test_files(source: str) -> list[str]:
    """Imports of test files, also in code that a test passes to a process."""
    return re.findall(
        r"^\s*(?:from|import) tests[\w.]*(?:\.| import )test_\w+", source, re.M
    )


def test_the_import_contracts_are_kept(root, lint):
    status, output = lint(root)
    assert status == 0, output


def test_every_contract_has_an_import_that_would_break_it(root):
    assert [c["id"] for c in contracts(root)["contracts"]] == list(PLANTED)


def test_a_copy_keeps_every_contract_until_something_is_planted(tree, lint):
    status, output = lint(tree)
    assert status == 0, output


@pytest.mark.parametrize("contract", PLANTED)
def test_a_planted_import_breaks_its_contract(contract, tree, lint):
    file, statement = PLANTED[contract]
    with (tree / file).open("a") as module:
        module.write(f"\n{statement}\n")
    status, output = lint(tree, contract)
    assert status == 1 and "1 broken" in output, output
