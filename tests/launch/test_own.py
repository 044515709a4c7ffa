"""python launch/own.py check FOLDER, as a user types it."""

import shutil

import pytest

from launch.own import counted

OWN = "launch/own.py"


@pytest.fixture
def mine(root, tmp_path):
    """A folder of one's own whose twins are right."""
    return shutil.copytree(root / "tests" / "twins" / "planted", tmp_path / "mine")


def edit(file, right, wrong):
    text = file.read_text()
    assert right in text
    file.write_text(text.replace(right, wrong))


def test_right_twins_are_the_same_in_under_a_minute(run_quickly, mine):
    done = run_quickly([OWN, "check", mine], timeout=60)
    assert done.returncode == 0, done.stderr
    assert "verdict: identical" in done.stdout


def test_all_wrong_leaves_are_reported_at_once_with_what_to_do(run_quickly, mine):
    twin = mine / "jax_model.py"
    with_dropout = """

_right = build_model


def build_model(config):
    model = _right(config)
    model.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    return model
"""
    twin.write_text(twin.read_text() + with_dropout)
    edit(mine / "shapes.py", '"body.kernel"', '"trunk.kernel"')
    done = run_quickly([OWN, "check", mine], timeout=60)
    assert done.returncode == 1
    told = done.stdout.splitlines()
    assert told[0].startswith("drop.rate is in one twin alone: nothing in torch_model")
    assert "dropout_rates(config)" in told[0]
    assert {"body.kernel", "trunk.kernel"} <= {line.partition(" ")[0] for line in told}
    assert "verdict: different, 3 leaves" in told[-1]


def test_code_that_fails_is_reported_with_its_line_in_both_twins(run_quickly, mine):
    for name in "torch", "jax":
        file = mine / f"{name}_model.py"
        file.write_text(f"{file.read_text()}\nraise RuntimeError('of {name}')\n")
    done = run_quickly([OWN, "check", mine], timeout=60)
    assert done.returncode == 2
    for name in "torch", "jax":
        assert f"RuntimeError: of {name}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_twin_that_is_killed_is_reported_with_the_signal(run_quickly, mine):
    ends = {"torch": "os.kill(os.getpid(), signal.SIGKILL)", "jax": "os._exit(3)"}
    for name, end in ends.items():
        file = mine / f"{name}_model.py"
        file.write_text(f"{file.read_text()}\nimport os, signal\n{end}\n")
    done = run_quickly([OWN, "check", mine], timeout=60)
    assert done.returncode == 2
    killed = "torch_model.py: killed by SIGKILL: not enough memory?"
    for told in killed, "jax_model.py: exit status 3: it printed nothing":
        assert told in done.stderr


def test_one_leaf_is_no_leaves():
    assert counted(["a"]) == "1 leaf" and counted([]) == "0 leaves"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ([], "usage: "),
        (["look", "mine"], "usage: "),
        (["check", "nowhere"], "lacks shapes.py, torch_model.py, jax_model.py"),
        (["check", "mine", "precision=bf16"], "precision=bf16: the check is of"),
        (["check", "mine", "learning=1"], "learning is not a key"),
    ],
)
def test_bad_input_is_reported_in_one_line(run_quickly, typed, told):
    done = run_quickly([OWN, *typed])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert told in line
    assert not done.stdout
