"""Runs made by hand, whose every figure is known."""

from pathlib import Path

import pytest

from report.runs import TimedRun


@pytest.fixture
def timed_run():
    """`timed_run(100.0, world_size=2, global_batch=64)`: a run of that rate."""
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
                "world_size": world,
                "processes": world,
                "global_batch": 64,
                "parameters": 1000,
                "config_hash": "recipe",
                "data_fingerprint": "data",
                "windows": (rate,),
                **fields,
            }
        )

    return make
