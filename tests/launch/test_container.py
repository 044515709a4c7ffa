"""The images' definitions say the same, build from the constraints, lack nothing."""

import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT

DOCKERFILE = (ROOT / "launch" / "slurm" / "Dockerfile").read_text()
APPTAINER = (ROOT / "launch" / "slurm" / "duet.def").read_text()
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "ENV"}


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, in order, with their arguments."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def sections(text: str) -> dict[str, list[str]]:
    """The lines of each section of an Apptainer definition; "" is its header."""
    _, *parts = re.split(r"^%(\w+)\n", "\n" + text, flags=re.MULTILINE)
    header = [line for line in text.partition("%")[0].splitlines() if ": " in line]
    found = {
        name: [line.strip() for line in body.splitlines() if line.strip()]
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
    return found | {"": [line for line in header if not line.startswith("#")]}


def copied() -> list[str]:
    """What the Dockerfile copies, a folder to a folder of its own name."""
    sources = []
    for name, arguments in instructions(DOCKERFILE):
        if name == "COPY":
            *given, target = arguments.split()
            assert target == (f"./{given[0]}" if (ROOT / given[0]).is_dir() else "./")
            sources += given
    return sources


def test_the_dockerfile_is_of_known_instructions_and_a_tagged_image():
    names = [name for name, _ in instructions(DOCKERFILE)]
    assert set(names) == INSTRUCTIONS and names[0] == "FROM"
    (image,) = [rest for name, rest in instructions(DOCKERFILE) if name == "FROM"]
    assert re.fullmatch(r"python:3\.\d+-[a-z]+", image)


def test_what_is_copied_is_part_of_the_repository():
    listed = ["git", "ls-files", "--error-unmatch", *copied()]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_both_definitions_say_the_same():
    held, (image,) = sections(APPTAINER), re.findall(r"^FROM (.*)$", DOCKERFILE, re.M)
    assert held[""] == ["Bootstrap: docker", f"From: {image}"]
    assert held["files"] == [f"{source} /duet/" for source in copied()]
    (run,) = [rest for name, rest in instructions(DOCKERFILE) if name == "RUN"]
    assert held["post"] == ["cd /duet", *run.split(" && ")]
    assert held["environment"] == ["export PATH=/duet/.venv/bin:$PATH"]


@pytest.fixture
def image(tmp_path):
    """The folder /duet of an image, before its RUN."""
    for source in copied():
        place = ROOT / source
        copy = shutil.copytree if place.is_dir() else shutil.copy
        copy(place, tmp_path / source)
    return tmp_path


def test_the_image_is_built_with_pip_from_the_constraints(image):
    (run,) = [rest for name, rest in instructions(DOCKERFILE) if name == "RUN"]
    make = run.partition(" && ")[0].split()
    said = subprocess.run([*make, "-n"], cwd=image, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    (pip,) = [line for line in said.stdout.splitlines() if "pip install" in line]
    assert pip.endswith("-c constraints.txt -e '.[cuda]'")
    project = tomllib.loads((image / "pyproject.toml").read_text())["project"]
    assert "cuda" in project["optional-dependencies"]


def test_pip_finds_all_packages_in_what_is_copied(image):
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "-c", "constraints.txt"]
    done = subprocess.run(
        [*command, "-e", ".[cuda]"], cwd=image, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Would install duet-twins" in done.stdout
    shutil.rmtree(image / "runtime")
    done = subprocess.run(
        [*command, "-e", ".[cuda]"], cwd=image, capture_output=True, text=True
    )
    assert done.returncode and "runtime" in done.stdout + done.stderr
