"""A plan's configurations, and the order of its runs."""

from collections import Counter

import pytest

from recipe.errors import ConfigError
from recipe.study import StudyPlan, configurations, study_runs


def plan(**changed) -> StudyPlan:
    return StudyPlan(**({"name": "test", "regime": "strong"} | changed))


def test_every_repeat_holds_every_point_once_in_an_order_of_its_own():
    order = study_runs(plan(repeats=5))
    blocks = [order[start : start + 4] for start in range(0, 20, 4)]
    for repeat, block in enumerate(blocks, start=1):
        assert {run.repeat for run in block} == {repeat}
        assert Counter(c.configuration for c in block) == Counter(
            p.configuration for p in configurations(plan())
        )
    assert len({tuple(c.configuration for c in block) for block in blocks}) > 1
    assert len({run.name for run in order}) == 20


def test_the_order_is_the_seeds():
    assert study_runs(plan(order_seed=3)) == study_runs(plan(order_seed=3))
    assert study_runs(plan(order_seed=3)) != study_runs(plan(order_seed=4))


def test_weak_scaling_fixes_the_batch_of_a_device_and_strong_that_of_all():
    two = configurations(plan(world_size=[2]))[0]
    assert "train.global_batch_size=64" in two.overrides(64, "strong")
    assert "train.global_batch_size=128" in two.overrides(64, "weak")


def test_pmap_is_left_to_jax():
    of = [
        (p.framework, p.parallel) for p in configurations(plan(parallel=["dp", "pmap"]))
    ]
    assert ("jax", "pmap") in of and ("torch", "pmap") not in of


def test_a_step_without_the_exchange_is_one_of_several_devices_under_dp():
    every = configurations(plan(parallel=["dp", "fsdp"], grad_sync=[True, False]))
    alone = [(p.framework, p.world_size, p.parallel) for p in every if not p.grad_sync]
    assert alone == [("torch", 2, "dp"), ("jax", 2, "dp")]
    assert len({p.configuration for p in every}) == len(every)


def test_parts_of_a_step_are_omitted_one_at_a_time():
    every = configurations(
        plan(world_size=[2], grad_sync=[True, False], update=[True, False])
    )
    assert [p.configuration for p in every if p.framework == "jax"] == [
        *("jax-2-fp32-dp", "jax-2-fp32-dp-frozen", "jax-2-fp32-dp-alone")
    ]
    assert "optim.update=false" in every[1].overrides(64, "strong")


def test_models_are_an_axis_only_where_they_are_given():
    names = [
        p.configuration
        for p in configurations(plan(framework=["jax"], model=["mlp", "cnn"]))
    ]
    assert sorted(names) == [
        f"jax-{m}-{n}-fp32-dp" for m in ("cnn", "mlp") for n in (1, 2)
    ]
    assert configurations(plan())[0].configuration == "torch-1-fp32-dp"
    assert not any(
        "model=" in o for o in configurations(plan())[0].overrides(64, "strong")
    )


def test_jax_is_compiled_whatever_is_asked_of_pytorch():
    assert [
        p.configuration
        for p in configurations(plan(world_size=[1], compile=[False, True]))
    ] == [*("torch-1-fp32-dp", "torch-1-fp32-dp-compiled", "jax-1-fp32-dp")]
    names = [
        p.configuration for p in configurations(plan(world_size=[1], compile=[True]))
    ]
    assert names == ["torch-1-fp32-dp-compiled", "jax-1-fp32-dp"]


def test_cuda_graphs_are_a_configuration_of_their_own():
    _, graphs, _ = configurations(plan(world_size=[1], compile=[True, "max"]))
    assert graphs.configuration == "torch-1-fp32-dp-compiled-max"
    assert "compile=max" in graphs.overrides(64, "strong")
    with pytest.raises(ConfigError, match="most is unknown; of: false, true, max"):
        plan(compile=["most"])


def test_accumulation_shrinks_as_devices_are_added_and_micro_batches_stay():
    overrides = [
        p.overrides(64, "strong_accumulate", 4) for p in configurations(plan())
    ]
    assert all("train.global_batch_size=64" in own for own in overrides)
    assert [own[-1] for own in overrides[:2]] == [
        "train.grad_accum_steps=4",
        "train.grad_accum_steps=2",
    ]
    with pytest.raises(ConfigError, match="grad_accum_steps=1 does not divide over"):
        configurations(plan())[1].overrides(64, "strong_accumulate", 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"regime": "medium"},
        {"world_size": []},
        {"world_size": [1, 1]},
        {"world_size": [0]},
        {"framework": ["mxnet"]},
        {"data": ["fake"]},
        {"grad_sync": [False]},
        {"grad_sync": [True, False], "world_size": [1]},
        {"model": []},
        {"update": [False]},
        {"repeats": 0},
        {"order_seed": -1},
        {"timed_seconds": 0.0},
        {"wait_minutes": -1.0},
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        plan(**wrong)


def test_a_wrong_number_of_repeats_is_reported_alone():
    with pytest.raises(ConfigError, match=r"^study.repeats must be at least 1, got 0$"):
        plan(repeats=0)
