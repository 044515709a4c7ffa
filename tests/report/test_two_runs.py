"""Two finished runs held together, on records made by hand."""

import numpy as np
import pytest

from recipe.errors import RecordError
from record.run import Run
from report.parity import DIFFERENT, IDENTICAL
from report.two_runs import compare_two


@pytest.fixture
def make_run(make_config, tmp_path):
    def make(
        *overrides, losses=(2.0, 1.5, 1.0), weight=1.0, fingerprint="data", anyway=()
    ):
        config = make_config(*overrides)
        return Run(
            path=tmp_path,
            config=config,
            environment={},
            summary={
                "framework": "torch",
                "world_size": config.devices or 1,
                "precision": config.precision.name,
                "config_hash": "recipe",
                "data_fingerprint": fingerprint,
                "resumed_anyway": list(anyway),
                "test": {"loss": 1.0, "accuracy": 0.9, "confusion": [[10]]},
            },
            rows=[{"kind": "step", "loss": loss, "loss_scale": 1.0} for loss in losses],
            weights={"dense.0.kernel": np.full((2, 3), weight)},
        )

    return make


def held(a, b):
    return compare_two(("a", a), ("b", b))


def test_place_layout_and_looks_are_no_part_of_a_recipe(make_run):
    other = make_run("devices=2", "run.dir=x", "tracking=wandb", "parallel=pmap")
    verdict = held(make_run(), other)
    assert verdict.verdict == IDENTICAL
    assert not [note for note in verdict.notes if "recipes" in note]


@pytest.mark.parametrize(
    ("precisions", "by", "verdict"),
    [
        (("fp64", "fp64"), 1e-9, DIFFERENT),
        (("fp64", "fp32"), 1e-9, IDENTICAL),
        (("fp32", "fp64"), 2e-3, DIFFERENT),
    ],
)
def test_the_looser_precisions_bound_applies(make_run, precisions, by, verdict):
    a, b = (make_run(f"precision={name}") for name in precisions)
    b = make_run(f"precision={precisions[1]}", losses=(2.0, 1.5, 1.0 + by))
    found = held(a, b)
    assert found.verdict == verdict
    assert found.precision == max(precisions, key=["fp64", "fp32"].index)


def test_fp32_says_that_no_controls_decided(make_run):
    (note,) = held(make_run("precision=fp32"), make_run("precision=fp32")).notes
    assert "without controls" in note
    assert not held(make_run("precision=fp64"), make_run("precision=fp64")).notes


def test_keys_that_differ_are_named_with_both_values(make_run):
    a = make_run("precision=fp64", "optim.momentum=0.9", "train.seed=1")
    b = make_run("precision=fp64", "optim.momentum=0.8", fingerprint="another")
    notes = held(a, b).notes
    assert "the recipes differ: optim.momentum is 0.9 in a and 0.8 in b" in notes
    assert "the recipes differ: train.seed is 1 in a and 0 in b" in notes
    assert any("fingerprints" in note for note in notes)
    assert len(notes) == 3


def test_runs_of_another_length_are_refused_with_both(make_run):
    with pytest.raises(RecordError, match="a has 3 steps, b has 2"):
        held(make_run(), make_run(losses=(2.0, 1.5)))


def test_the_step_and_the_leaf_that_part_are_named(make_run):
    other = make_run("precision=fp64", losses=(2.0, 1.6, 1.0), weight=1.1)
    (comparison,) = held(make_run("precision=fp64"), other).comparisons
    assert "the loss parts at step 2" in comparison.broken[0]
    assert "dense.0.kernel" in comparison.broken[1]
