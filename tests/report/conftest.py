"""Runs made by hand, whose every figure is known."""

from pathlib import Path

import pytest

from record.folder import create_folder
from report.analysis.runs import TimedRun
from tests.record.runs import recipe, write_run
from tests.report.browser import Browser


@pytest.fixture
def timed_run():
    """`timed_run(100.0, world_size=2, global_batch_size=64)`: a run of that rate."""
    made = []

    def make(rate, **fields):
        made.append(rate)
        world = fields.get("world_size", 1)
        return TimedRun(
            **{
                "path": Path(f"run-{len(made)}"),
                "framework": "torch",
                "experiment": "digits_cnn",
                "data": "digits",
                "model": "cnn",
                "precision": "fp32",
                "parallel": "dp",
                "device": "A Fast One",
                "machine": "8 logical cores",
                "software": "its version",
                "world_size": world,
                "processes": world,
                "global_batch_size": 64,
                "parameters": 1000,
                "config_hash": "recipe",
                "data_fingerprint": "data",
                "windows": (rate,),
                **fields,
            }
        )

    return make


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A run folder as a training writes it; world size 4 in 2 processes."""
    folder = tmp_path_factory.mktemp("written") / "run"
    create_folder(recipe(folder), "jax")
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def browser(chromium, tmp_path_factory):
    with Browser(chromium, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def opened(browser, out):
    """The page of the test file's `out`, as a desktop shows it."""
    browser.size(1280)
    browser.media()
    browser.open(out / "index.html")
    return browser
