"""docs/transfer.md as it reads, and a fine-tuned, frozen run in both frameworks."""

import json
import re
import shlex

import numpy as np
import pytest
import safetensors.numpy

from tests.launch.pages import console_lines

PAGE = "docs/transfer.md"


@pytest.fixture(scope="module")
def done(run_python, root, fashion_mnist, tmp_path_factory):
    """The page's commands, cut to three steps, in the order in which they stand."""
    folder = tmp_path_factory.mktemp("transfer")
    ended = []
    for command in console_lines((root / PAGE).read_text()):
        program, script, *typed = shlex.split(command)
        assert program == "python"
        few = ["train.steps=3", "platform=cpu"]
        ended.append(run_python([root / script, *typed, *few], cwd=folder))
    return folder, ended


def test_the_commands_of_the_page_run_one_after_the_other(done):
    _, ended = done
    assert len(ended) == 4
    for command in ended:
        assert command.returncode == 0, command.stdout + command.stderr


def test_the_screen_says_what_came_from_the_file(done, root):
    _, (_, tuned, _, plain) = done
    (shown,) = re.findall(r"```text\n(.*?)```", (root / PAGE).read_text(), re.DOTALL)
    assert shown in tuned.stdout
    assert "from runs/" not in plain.stdout and "frozen" not in plain.stdout


def test_a_frozen_fine_tuned_run_is_identical_in_fp64(done, run_python, root):
    folder, _ = done
    typed = ["experiment=digits_from_fashion", "optim.lr_factors={dense.1: 3}"]
    typed += ["precision=fp64", "train.steps=10", "world_sizes=[1]", "platform=cpu"]
    check = [root / "launch/parity.py", *typed, f"run.dir={folder / 'parity'}"]
    ended = run_python(check, cwd=folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    verdict = json.loads((folder / "parity" / "parity.json").read_text())
    assert verdict["verdict"] == "identical"
    for comparison in verdict["comparisons"]:
        assert max(comparison["leaves"].values()) <= 1e-10
        assert comparison["leaves"]["conv.0.kernel"] == 0
    file, end = (
        safetensors.numpy.load_file(folder / path / "final.safetensors")
        for path in ("runs/fashion", "parity/jax-1")
    )
    for name, array in end.items():
        kept = np.array_equal(array, file[name].astype(np.float64))
        assert kept == name.startswith("conv.0."), name
