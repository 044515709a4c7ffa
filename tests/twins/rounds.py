"""Federated rounds of either twin on given data, over however many devices."""

import threading
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch
from jax.sharding import Mesh

from jax_impl import checkpoint as jax_checkpoint
from jax_impl import federated as jax_federated
from jax_impl import model as jax_model
from jax_impl import optim as jax_optim
from jax_impl import parallel as jax_parallel
from jax_impl import step as jax_step
from jax_impl import weights as jax_weights
from recipe.clients import RoundPlan, plan_of
from recipe.config import Config
from recipe.pixels import pixel_affine
from recipe.weights import Weights
from tests.twins.steps import Arrays, Ended
from torch_impl import federated as torch_federated
from torch_impl import model as torch_model
from torch_impl import optim as torch_optim
from torch_impl import parallel as torch_parallel
from torch_impl import step as torch_step
from torch_impl import weights as torch_weights

# A device's programs -> those in their place.
Planted = Callable[[jax_federated.Programs], jax_federated.Programs]


def rounds_of(config: Config, arrays: Arrays) -> RoundPlan:
    plan = plan_of(config, arrays[1])
    assert isinstance(plan, RoundPlan)
    return plan


class Meeting:
    """Ranks that are threads: an all-reduce adds what each of them brings."""

    def __init__(self, ranks: int):
        self.brought: list[Any] = [None] * ranks
        self.barrier = threading.Barrier(ranks)
        self.own = threading.local()

    def all_reduce(self, tensor: torch.Tensor) -> None:
        self.brought[self.own.rank] = tensor.clone()
        self.barrier.wait(60)
        total = torch.stack(self.brought).sum(dim=0)
        self.barrier.wait(60)
        tensor.copy_(total)


@contextmanager
def meeting(ranks: int):
    """While it lasts, `torch_impl.federated` exchanges between threads."""
    with pytest.MonkeyPatch.context() as patch:
        met = Meeting(ranks)
        dist = SimpleNamespace(all_reduce=met.all_reduce)
        patch.setattr(torch_federated, "dist", dist)
        yield met


def torch_rounds(
    config: Config, weights: Weights, arrays: Arrays, rate: float, ranks: int = 1
) -> Ended:
    plan, ends = rounds_of(config, arrays), [(np.zeros(0), weights)] * ranks

    def train(rank: int, met: Meeting) -> None:
        met.own.rank = rank
        world = torch_parallel.World(rank, ranks, ranks, torch.device("cpu"))
        data = torch_step.DeviceData(
            *(torch_parallel.replicate(a, world) for a in arrays),
            *(torch_parallel.replicate(a, world) for a in pixel_affine(config)),
        )
        model = torch_model.build_model(config)
        torch_weights.load_weights(model, weights, world)
        optimizer = torch_optim.build_optimizer(config, model)
        steps = range(plan.last)
        placed = torch_federated.place_rounds(config, plan, steps, world)
        seen = []
        for step in steps:
            _, metrics = torch_federated.round_step(
                *(config, model, optimizer, data),
                *torch_step.one_step(placed, step),
                learning_rate=rate,
                loss_scale=None,
                world=world,
            )
            seen.append([float(number) for number in metrics])
        ends[rank] = np.array(seen), torch_weights.save_weights(model, world)

    with meeting(ranks) as met:
        threads = [
            threading.Thread(target=train, args=(rank, met)) for rank in range(ranks)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seen = ends[0][0].copy()
    seen[:, 0] = sum(end[0][:, 0] for end in ends)  # each rank's part of the loss
    return seen, ends[0][1]


def jax_rounds(
    config: Config,
    weights: Weights,
    arrays: Arrays,
    rate: float,
    devices: int = 1,
    planted: Planted | None = None,
) -> Ended:
    plan = rounds_of(config, arrays)
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (jax_parallel.AXIS,))
    world = jax_parallel.World(0, 1, devices, mesh)
    data = jax_step.DeviceData(
        *jax_parallel.replicate((*arrays, *pixel_affine(config)), world)
    )
    model = jax_model.build_model(config)
    graphdef, params, statistics = jax_weights.load_weights(model, weights)
    optimizer = jax_optim.build_optimizer(config, params)
    given = config, model, params, statistics, optimizer, weights, None, world
    state = jax_checkpoint.load_state(*given)
    compiled: Any = jax_federated.compile_rounds(
        config, graphdef, optimizer, state, data, data, plan, world
    )
    (step,), *_ = compiled
    if planted is not None:
        programs = step.args[0]
        programs[:] = map(planted, programs)
    leaves, tree = jax.tree.flatten(state)
    rates = np.full(config.train.log_every_steps, rate)
    rates, *at = jax_parallel.replicate((rates, *map(np.int32, range(1))), world)
    seen = []
    for number in range(plan.last):
        steps = range(number, number + 1)
        placed = jax_federated.place_rounds(config, plan, steps, world)
        leaves, metrics = step(leaves, data, placed, rates, *at)
        seen.append(jax_parallel.to_host([metrics], world)[0])
    state = tree.unflatten(leaves)
    saved = jax_weights.save_weights(state.params, state.statistics, world)
    return np.array(seen), saved
