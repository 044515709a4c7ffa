"""Every command that the README and the quickstart show is one that works."""

import re
import shlex

import pytest
import yaml
from PIL import Image

from tests.conftest import ROOT, exhaustive_but
from tests.launch.pages import console_lines

README = (ROOT / "README.md").read_text()
PAGES = [
    README,
    *((ROOT / page).read_text() for page in ("docs/quickstart.md", "CONTRIBUTING.md")),
]
COMMANDS = [
    line.partition("  #")[0].strip() for page in PAGES for line in console_lines(page)
]
BY_HAND = ("make ", "source ")  # what sets up the environment that this runs in
USES = re.compile(r"launch/(evaluate|export|predict)\.py")  # what was trained before
SCRIPTS = [
    c
    for c in dict.fromkeys(COMMANDS)
    if not c.startswith(BY_HAND) and not USES.search(c)
]


def test_the_first_two_commands_are_on_the_first_screen():
    assert README.index("make demo") < README.index("make test") < 1500


def test_make_has_every_target_that_is_shown(root):
    targets = re.findall(r"^([\w-]+):", (root / "Makefile").read_text(), re.MULTILINE)
    shown = {c.split()[1] for c in COMMANDS if c.startswith("make ")}
    assert shown and shown <= set(targets)


@pytest.mark.parametrize(
    "command", exhaustive_but([c for c in SCRIPTS if c in README], SCRIPTS)
)
def test_the_command_runs(run_python, fashion_mnist, command, tmp_path):
    program, *arguments = shlex.split(command)
    if program == "torchrun":
        arguments = ["-m", "torch.distributed.run", *arguments]
    if "launch/parity.py" in command or "launch/study.py" in command:
        arguments += ["--cfg", "job"]  # tests of their own in tests/launch run them
    elif "launch/report.py" in command:
        arguments = [arguments[0], "--help"]  # tests of their own run them
    elif "launch/" in command:
        arguments += ["train.steps=3", f"run.dir={tmp_path / 'run'}"]
    done = run_python(arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_was_trained_is_evaluated_exported_and_predicted_from(
    run_quickly, tmp_path
):
    trains, *uses = [c for c in COMMANDS if c in README and "runs/one" in c]
    assert len(uses) == len(list(filter(USES.search, uses))) == 3
    Image.new("L", (20, 30)).save(tmp_path / "digit.png")
    for line in f"{trains} train.steps=3", *uses:
        _, script, *typed = shlex.split(line)
        if "export.py" in script:
            typed.append("formats=onnx")  # tests of its own have the others
        done = run_quickly([ROOT / script, *typed], cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"digit\.png +\d +[01]\.\d{4}", done.stdout)


@pytest.mark.parametrize("page", sorted(p.name for p in (ROOT / "docs").glob("*.md")))
def test_every_page_is_linked_or_named(page):
    assert f"docs/{page}" in README


def test_every_cell_of_the_matrix_has_its_row(root):
    matrix = yaml.safe_load((root / "conf" / "identity.yaml").read_text())
    cells = {name for part in matrix.values() for name in part["checks"]}
    page = (root / "docs" / "identity.md").read_text()
    assert cells == set(re.findall(r"^\| `([\w-]+)` \| \w+ \| \d+ \|", page, re.M))


def test_every_test_that_the_contract_names_is_there(root):
    contract = (root / "docs" / "identity.md").read_text()
    sources = "".join(p.read_text() for p in (root / "tests").rglob("test_*.py"))
    names = set(re.findall(r"\btest_\w+(?!\w*\.py)\b", contract))
    files = set(re.findall(r"tests/[\w/]+\.py", contract))
    assert names and files
    for file in files:
        assert (root / file).exists(), file
    for name in names:
        assert f"def {name}(" in sources or any(f"{name}.py" in f for f in files), name
