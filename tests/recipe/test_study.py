"""A plan's points, and the order of its cells."""

from collections import Counter

import pytest

from recipe.errors import ConfigError
from recipe.study import StudyPlan, cells, points


def plan(**changed) -> StudyPlan:
    return StudyPlan(**({"name": "test", "regime": "strong"} | changed))


def test_every_repeat_holds_every_point_once_in_an_order_of_its_own():
    order = cells(plan(repeats=5))
    blocks = [order[start : start + 4] for start in range(0, 20, 4)]
    for repeat, block in enumerate(blocks, start=1):
        assert {cell.repeat for cell in block} == {repeat}
        assert Counter(c.point for c in block) == Counter(
            p.point for p in points(plan())
        )
    assert len({tuple(c.point for c in block) for block in blocks}) > 1
    assert len({cell.name for cell in order}) == 20


def test_the_order_is_the_seeds():
    assert cells(plan(order_seed=3)) == cells(plan(order_seed=3))
    assert cells(plan(order_seed=3)) != cells(plan(order_seed=4))


def test_weak_scaling_fixes_the_batch_of_a_device_and_strong_that_of_all():
    two = points(plan(world_size=[2]))[0]
    assert "train.global_batch=64" in two.overrides(64, "strong")
    assert "train.global_batch=128" in two.overrides(64, "weak")


def test_pmap_is_left_to_jax():
    of = [(p.framework, p.parallel) for p in points(plan(parallel=["dp", "pmap"]))]
    assert ("jax", "pmap") in of and ("torch", "pmap") not in of


@pytest.mark.parametrize(
    "wrong",
    [
        {"regime": "medium"},
        {"world_size": []},
        {"world_size": [1, 1]},
        {"world_size": [0]},
        {"framework": ["mxnet"]},
        {"repeats": 0},
        {"order_seed": -1},
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        plan(**wrong)
