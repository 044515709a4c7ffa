"""What a script in launch/ imports, wherever it is started and without an install."""

import shutil
import subprocess
import sys

import pytest

SCRIPT = """
import launch

import json
import trace

import launch.trace
import record

print(json.dumps([trace.__name__, launch.__file__, launch.trace.__file__, record.OURS]))
"""


@pytest.fixture
def checkout(root, tmp_path):
    """A checkout whose launch/ hides a module of Python's, and whose script prints."""
    for name in "launch", "record":
        (tmp_path / name).mkdir()
    shutil.copy(root / "launch" / "launch.py", tmp_path / "launch")
    (tmp_path / "launch" / "__init__.py").touch()
    (tmp_path / "launch" / "trace.py").write_text("__name__ = 'hides'")
    (tmp_path / "launch" / "script.py").write_text(SCRIPT)
    (tmp_path / "record" / "__init__.py").write_text("OURS = True")
    return tmp_path


def started(*arguments, cwd):
    command = [sys.executable, "-S", *map(str, arguments)]  # -S: nothing is installed
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("place", ["", "launch", "elsewhere"])
def test_a_script_finds_its_checkout_and_hides_no_module(checkout, place):
    (checkout / "elsewhere").mkdir()
    done = started(checkout / "launch" / "script.py", cwd=checkout / place)
    package = checkout / "launch"
    told = f'["trace", "{package}/__init__.py", "{package}/trace.py", true]\n'
    assert done.stdout == told, done.stderr


def test_a_module_of_launch_starts_as_one_too(checkout):
    done = started("-m", "launch.script", cwd=checkout)
    assert "true" in done.stdout, done.stderr


def test_without_that_first_line_its_folder_would_hide_one(checkout):
    script = checkout / "launch" / "script.py"
    script.write_text(SCRIPT.replace("import launch\n", "", 1))
    done = started(script, cwd=checkout)
    assert done.stdout.startswith('["hides"'), done.stderr


def test_each_script_imports_launch_first(root):
    scripts = ["evaluate", "export", "identity", "jax", "own", "parity", "predict"]
    scripts += ["pytorch", "report", "study"]
    for name in scripts:
        text = (root / "launch" / f"{name}.py").read_text()
        statements = text.partition('"""\n\n')[2]
        assert statements.startswith("import launch "), name
