"""docs/add-a-model.md, done line by line in a folder of one's own."""

import os
import re
import shlex
import shutil
import subprocess

import pytest

from tests.conftest import ROOT
from tests.launch.pages import console_lines, write_files

PAGE = (ROOT / "docs" / "add-a-model.md").read_text()
COMMANDS = console_lines(PAGE)
FINDING = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def done(run_quickly, tmp_path_factory):
    """Every command that the page shows, in its order: exit status and output."""
    folder = tmp_path_factory.mktemp("user")
    write_files(PAGE, folder)
    results = {}
    for line in COMMANDS:
        command, _, comment = line.partition("  # ")
        program, *arguments = shlex.split(command)
        if program == "python":
            script, *overrides = arguments
            result = run_quickly([ROOT / script, *overrides], cwd=folder)
        else:
            result = subprocess.run(
                [shutil.which(program), *arguments],
                cwd=folder,
                env=os.environ,
                capture_output=True,
                text=True,
            )
        expected = int(comment.removeprefix("exit ") or 0)
        results[line] = result, expected
    return results


def test_each_command_ends_as_the_page_says(done):
    for line, (result, expected) in done.items():
        assert result.returncode == expected, (line, result.stdout + result.stderr)


def test_the_check_before_any_training_finds_the_twins_the_same(done):
    (checked,) = [
        result for line, (result, _) in done.items() if "own.py check" in line
    ]
    assert "verdict: identical" in checked.stdout


def test_the_right_twins_are_identical_and_the_wrong_one_is_named_by_its_layer(done):
    said = {
        re.search(r"run\.dir=runs/(\S+)", line)[1]: " ".join(result.stdout.split())
        for line, (result, _) in done.items()
        if "run.dir" in line
    }
    assert "verdict: identical" in said["right"]
    assert "the losses differ from step 1 on" in said["wrong"]
    for line in FINDING[1].splitlines():
        assert line in said["traced"]
    assert "the losses differ from step 1 on" in said["compared"]
