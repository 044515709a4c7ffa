"""The releases that Duet is developed with lie within the ranges that it asks for."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]


def pinned():
    """Name -> the release in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(release) for name, release in pairs}


def beyond(asked, pins):
    """Requirements that no pinned release meets."""
    needs = [need for need in map(Requirement, asked) if need.name != PROJECT["name"]]
    return [
        str(need)
        for need in needs
        if not need.specifier.contains(pins[canonicalize_name(need.name)])
    ]


def test_every_release_that_setup_installs_is_one_that_the_project_allows():
    assert beyond(ASKED, pinned()) == []


@pytest.mark.parametrize("asked", ["torch>=99", "jax<0.2"])
def test_a_release_out_of_range_is_noticed(asked):
    assert beyond([*ASKED, asked], pinned()) == [asked]


def test_no_release_is_capped_since_clusters_bring_their_own():
    needs = map(Requirement, ASKED)
    capped = [str(n) for n in needs if re.search(r"[<~=]=|<", str(n.specifier))]
    assert capped == []


def test_the_quickstart_tells_the_oldest_pytorch_and_jax(root):
    oldest = {
        need.name: str(need.specifier).removeprefix(">=")
        for need in map(Requirement, PROJECT["dependencies"])
    }
    said = f"PyTorch ≥ {oldest['torch']} and JAX ≥ {oldest['jax']}"
    assert said in (root / "docs" / "quickstart.md").read_text()
