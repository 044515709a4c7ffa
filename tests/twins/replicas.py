"""Steps of local SGD in either twin: torch's ranks are threads, JAX's are CPU devices.

As the loops of `train.py` take them, from fresh weights or from a checkpoint's arrays.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
import torch
from jax.sharding import Mesh

from data.batches import Batches
from jax_impl import checkpoint as jax_checkpoint
from jax_impl import local_sgd as jax_local
from jax_impl import metrics as jax_metrics
from jax_impl import model as jax_model
from jax_impl import optim as jax_optim
from jax_impl import parallel as jax_parallel
from jax_impl import step as jax_step
from jax_impl import weights as jax_weights
from recipe.config import Config
from recipe.execution import Strategy
from recipe.pixels import pixel_affine
from recipe.weights import Weights, initial_weights
from record.checkpoint import Checkpoint
from record.rows import Row, round_rows
from tests.twins.steps import EXAMPLES, Arrays, random_arrays
from torch_impl import checkpoint as torch_checkpoint
from torch_impl import local_sgd as torch_local
from torch_impl import metrics as torch_metrics
from torch_impl import model as torch_model
from torch_impl import optim as torch_optim
from torch_impl import parallel as torch_parallel
from torch_impl import step as torch_step
from torch_impl import weights as torch_weights

SPAN = 12  # steps that JAX's are compiled for at least


@dataclass(frozen=True)
class Ended:
    """What some steps left.

    Args:
      losses, norms: of each step.
      arrays: of a checkpoint after the last.
      rounds: rows of the record.
    """

    losses: np.ndarray
    norms: np.ndarray
    arrays: dict[str, Weights]
    state: dict[str, int | float]
    rounds: list[Row]
    step: int

    @property
    def weights(self) -> Weights:
        return self.arrays["weights"]


@dataclass(frozen=True)
class Steps:
    """Steps to take.

    Args:
      rows: examples of each step's global batch, shape (steps, examples).
      resumed: what earlier ones of them left.
      rate: the learning rate of each.
    """

    config: Config
    weights: Weights
    arrays: Arrays
    rows: np.ndarray
    resumed: Ended | None = None
    rate: float = 0.05

    @classmethod
    def of(cls, config: Config, count: int) -> "Steps":
        batch = config.train.global_batch_size
        draw = np.random.default_rng(2)
        rows = [draw.permutation(EXAMPLES)[:batch] for _ in range(count)]
        given = config, initial_weights(config), random_arrays(config)
        return cls(*given, np.array(rows, np.int32))

    @property
    def first(self) -> int:
        return 0 if self.resumed is None else self.resumed.step

    @property
    def checkpoint(self) -> Checkpoint | None:
        if self.resumed is None:
            return None
        none: dict[str, Any] = dict.fromkeys(
            ("epoch", "framework", "world_size", "config_hash", "recipe", "test")
        )
        held = self.resumed
        none |= {"step": held.step, "arrays": held.arrays, "state": held.state}
        return Checkpoint(**none, data_fingerprint="")

    def start(self) -> Weights:
        return self.weights if self.resumed is None else self.resumed.weights

    def micro(self, rank: int, processes: int) -> list[np.ndarray]:
        """Of each step left, this rank's rows."""
        parts = np.split(self.rows[self.first :], processes, axis=1)
        return [rows[None] for rows in parts[rank]]


Run = Callable[[Steps, int], Ended]


def in_torch(steps: Steps, count: int) -> Ended:
    """On so many ranks; under dp on one, which takes the whole batch."""
    with pytest.MonkeyPatch.context() as patch:
        ranks = Ranks(count, patch)
        with ThreadPoolExecutor(count) as pool:
            strategy = Strategy(steps.config.parallel.name)
            worlds = [
                torch_parallel.World(r, count, count, torch.device("cpu"), strategy)
                for r in range(count)
            ]
            return [*pool.map(ranks.guarded(steps, _torch_rank), worlds)][0]


def _torch_rank(steps: Steps, world: torch_parallel.World) -> Ended:
    config, resumed = steps.config, steps.checkpoint
    given = (*steps.arrays, *pixel_affine(config))
    data = torch_step.DeviceData(*(torch_parallel.replicate(a, world) for a in given))
    model = torch_model.build_model(config)
    torch_weights.load_weights(model, steps.start(), world)
    optimizer = torch_optim.build_optimizer(config, model)
    held = config, model, optimizer
    average, scale = torch_checkpoint.load_state(*held, steps.start(), resumed, world)
    local = torch_local.build_local(config, model, steps.start(), resumed, world)
    metrics, met, step = [], [], steps.first
    for rows in steps.micro(world.rank, world.processes):
        batch = torch_parallel.place_batch(rows, world), None, None
        warms_up = step < config.parallel.warmup_steps
        settings = steps.rate, scale, world, average, warms_up
        _, seen = torch_step.train_step(*held, data, *batch, *settings)
        metrics.append(seen)
        step += 1
        if local is not None and local.rounds.acts(step):
            met += torch_local.finish_step(local, step, world)
    found = torch_metrics.gather_metrics(metrics, world)
    arrays, state = torch_checkpoint.save_state(
        *held, average, scale, local, step, world
    )
    copied = {k: {n: a.copy() for n, a in of.items()} for k, of in arrays.items()}
    rows = round_rows(config, world.size, torch_local.gather_rounds(met, world))
    return Ended(found["losses"], found["grad_norms"], copied, state, rows, step)


class Ranks:
    """Threads that stand for ranks, and the collectives between them."""

    def __init__(self, count: int, patch: pytest.MonkeyPatch):
        self.barrier = threading.Barrier(count, timeout=60)
        self.given: list[torch.Tensor] = [torch.empty(0)] * count
        self.own = threading.local()
        for name in "all_reduce", "all_gather", "broadcast":
            patch.setattr(torch.distributed, name, getattr(self, name))

    def guarded(self, steps: Steps, run: Callable[..., Ended]) -> Callable[..., Ended]:
        def call(world: torch_parallel.World) -> Ended:
            self.own.rank = world.rank
            try:
                return run(steps, world)
            except BaseException:
                self.barrier.abort()  # else the others would wait
                raise

        return call

    def exchange(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.given[self.own.rank] = tensor
        self.barrier.wait()
        found = [given.clone() for given in self.given]
        self.barrier.wait()
        return found

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor.copy_(torch.stack(self.exchange(tensor)).sum(0))

    def all_gather(self, rows: list[torch.Tensor], tensor: torch.Tensor) -> None:
        for row, found in zip(rows, self.exchange(tensor), strict=True):
            row.copy_(found)

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        tensor.copy_(self.exchange(tensor)[src])


def in_jax(steps: Steps, count: int) -> Ended:
    """On so many CPU devices of this process, compiled as a run is."""
    config, resumed = steps.config, steps.checkpoint
    mesh = Mesh(np.array(jax.local_devices()[:count]), (jax_parallel.AXIS,))
    strategy = Strategy(config.parallel.name)
    world = jax_parallel.World(0, 1, count, mesh, strategy)
    given = (*steps.arrays, *pixel_affine(config))
    data = jax_step.DeviceData(*jax_parallel.replicate(given, world))
    model = jax_model.build_model(config)
    graphdef, params, statistics = jax_weights.load_weights(model, steps.start())
    optimizer = jax_optim.build_optimizer(config, params)
    held = config, model, params, statistics, optimizer, steps.start(), resumed, world
    state = jax_checkpoint.load_state(*held)
    local = jax_local.build_local(config, steps.start(), resumed, world)
    # Padded, so that what is compiled for a part of the steps serves all of them.
    spare = [(0, max(0, SPAN - len(steps.rows))), (0, 0)]
    window = Batches(np.pad(steps.rows, spare)[:, None], None, None)
    train, _, _ = jax_step.compile_steps(
        *(config, graphdef, optimizer, state, data, data, window, world, local)
    )
    batches = jax_parallel.place_batch(window, world, axis=2)
    rates = np.full(config.train.log_every_steps, steps.rate, params_dtype(config))
    places = [np.int32(place) for place in range(steps.first, len(steps.rows))]
    rates, places = jax_parallel.replicate((rates, places), world)
    tree, leaves = jax.tree.structure(state), jax.tree.leaves(state)
    metrics, met, step = [], [], steps.first
    for place in places:
        warms_up = step < config.parallel.warmup_steps
        leaves, seen = train[warms_up](leaves, data, batches, rates, place)
        metrics.append(seen)
        step += 1
        if local is not None and local.rounds.acts(step):
            state = tree.unflatten(leaves)
            state, found = jax_local.finish_step(local, state, step, world)
            leaves, met = jax.tree.leaves(state), met + found
    found = jax_metrics.gather_metrics(metrics, world)
    arrays, counts = jax_checkpoint.save_state(
        tree.unflatten(leaves), local, step, world
    )
    copied = {k: {n: np.array(a) for n, a in of.items()} for k, of in arrays.items()}
    rows = round_rows(config, world.size, jax_local.gather_rounds(met, world))
    return Ended(found["losses"], found["grad_norms"], copied, counts, rows, step)


def params_dtype(config: Config) -> type[np.floating]:
    return np.float64 if config.precision.name == "fp64" else np.float32


TWINS: dict[str, Run] = {"torch": in_torch, "jax": in_jax}
