"""Every command that a page of docs/ shows is one that its script takes.

Commands are composed and checked as at their start, and not run; tests/test_readme.py
runs those of the README and the quickstart, tests/launch/ those of other pages.
"""

import re
import shlex

import hydra
import pytest
from hydra.core.config_store import ConfigStore

from data import acquire
from launch import evaluate, export, predict, report
from launch.asked import asked
from launch.overrides import checked, typed_config
from launch.own import keys
from recipe.config import Config
from recipe.errors import ConfigError
from recipe.parity import ParityConfig
from recipe.study import StudyConfig
from tests.conftest import ROOT

SCHEMAS = {
    "pytorch": ("config", Config),
    "jax": ("config", Config),
    "parity": ("parity", ParityConfig),
    "study": ("study", StudyConfig),
}
PARSERS = {
    "evaluate": lambda typed: asked(typed, evaluate.EvaluateKeys, ""),
    "export": lambda typed: asked(typed, export.ExportKeys, ""),
    "predict": lambda typed: predict.parser().parse_args(typed),
    "report": lambda typed: report.parser().parse_args(typed),
}
# What begins so is no script of Duet's, with the reason why nothing is checked.
NOT_OURS = {
    "source .venv/": "the shell's own",
    'eval "$(python launch/jax.py -sc': "tests/launch/test_command_line.py has it",
    'rm -f "$RUN_DIR': "a batch script's own",
    'test -e "$RUN_DIR': "a batch script's own",
    "export ": "the shell's own",
    "srun --ntasks-per-node": "copies files on a cluster",
    "sed -i.bak": "tests/launch/test_add_a_model.py runs it",
    "mv mine/": "tests/launch/test_add_a_model.py runs it",
    "docker build": "needs a daemon; tests/launch/test_container.py reads its file",
    "enroot ": "needs a cluster's container runtime",
    "apptainer ": "needs a cluster's container runtime",
    "python3 -m pip": "pip's own",
    "python make_photos.py": "tests/launch/test_own_images.py writes and runs it",
}
BLOCK = re.compile(r"^ *```(?:console|bash|sh)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """Commands of a page's blocks, each on one line, without comments and loops."""
    text = "\n".join(BLOCK.findall(page)).replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        line = line.partition("  #")[0].strip()
        if loop := re.fullmatch(r"for (\w+) in (\S+).*?; do (.*); done", line):
            line = loop[3].replace(f"${loop[1]}", loop[2])
        found.append(" ".join(line.split()))
    return [line for line in found if line]


SHOWN = {
    page.name: commands(page.read_text()) for page in sorted(ROOT.glob("docs/*.md"))
}
PAGES = [name for name, lines in SHOWN.items() if lines]


def check(command: str) -> None:
    """Compose and check what a command asks for.

    Raises:
      ConfigError: as its script would.
    """
    words = shlex.split(command.replace('"$RUN_DIR"', "runs/one"))
    while re.fullmatch(r"[A-Z_]+=.*|srun", words[0]):  # variables, and what starts it
        words.pop(0)
    program, *words = words
    if program == "make":
        goal = next(word for word in words if "=" not in word)
        assert re.search(rf"^{goal}:", (ROOT / "Makefile").read_text(), re.M), goal
        return
    if words[:2] == ["-m", "data.acquire"]:
        assert words[2] in acquire.PUBLISHED
        return
    script = next(word for word in words if word.startswith("launch/"))
    assert (ROOT / script).is_file(), script
    arguments = words[words.index(script) + 1 :]
    name = script.removeprefix("launch/").removesuffix(".py")
    if script.endswith(".sbatch"):
        name, *arguments = arguments or ["jax"]
    if name == "own":
        name, arguments = "jax", keys(arguments)
    if name in PARSERS:
        PARSERS[name](arguments)
    elif name in SCHEMAS:
        compose(*SCHEMAS[name], arguments)
    else:
        raise AssertionError(f"{script}: how is its command line checked?")


def compose(name: str, schema: type[Config], arguments: list[str]) -> None:
    ConfigStore.instance().store("schema", node=schema)
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        typed_config(hydra.compose(name, checked(arguments, schema)), schema)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_that_its_script_takes(page):
    for command in SHOWN[page]:
        if not command.startswith(tuple(NOT_OURS)):
            check(command)


def test_every_exception_is_still_shown():
    shown = [command for lines in SHOWN.values() for command in lines]
    for begin in NOT_OURS:
        assert any(command.startswith(begin) for command in shown), begin


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("python launch/jax.py train.step=3", hydra.errors.HydraException),
        ("python launch/study.py study=demos", hydra.errors.HydraException),
        ("torchrun --nproc-per-node=2 launch/pytorch.py train.epochs=0", ConfigError),
        ("python launch/report.py runs --acuracy 1", SystemExit),
        ("python launch/evaluate.py runs/one", ConfigError),
        ("python launch/export.py run=runs/one format=[onnx]", ConfigError),
        ("python launch/predict.py runs/one --jax digit.png", SystemExit),
        ("python launch/jacks.py", AssertionError),
        ("make clams", AssertionError),
        ("python -m data.acquire cifar11", AssertionError),
    ],
)
def test_a_command_with_an_error_would_be_noticed(command, error, capsys):
    with pytest.raises(error):
        check(command)


def test_loops_and_continued_lines_are_one_command_each():
    page = """```console
for seed in 0 1; do python launch/jax.py train.seed=$seed; done  # twice
python launch/jax.py \\
    train.steps=3
```
"""
    commanded = [
        "python launch/jax.py train.seed=0",
        "python launch/jax.py train.steps=3",
    ]
    assert commands(page) == commanded
