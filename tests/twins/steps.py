"""Training steps of either twin on given batches, over however many devices."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from data.augment import batch_draws
from data.dropout import batch_keys
from jax_impl import ema as jax_ema
from jax_impl import exchange as jax_exchange
from jax_impl import freeze as jax_freeze
from jax_impl import model as jax_model
from jax_impl import optim as jax_optim
from jax_impl import parallel as jax_parallel
from jax_impl import step as jax_step
from jax_impl import weights as jax_weights
from recipe.batch_plan import BatchPlan, rank_slice
from recipe.config import Config, to_config
from recipe.loss_scale import initial_loss_scale
from recipe.pixels import pixel_affine
from recipe.weights import Weights, weight_shapes
from record.run import AVERAGE, Run
from torch_impl import ema as torch_ema
from torch_impl import exchange as torch_exchange
from torch_impl import model as torch_model
from torch_impl import optim as torch_optim
from torch_impl import parallel as torch_parallel
from torch_impl import step as torch_step
from torch_impl import weights as torch_weights

EXAMPLES = 24
PLAN = BatchPlan(seed=0, examples=EXAMPLES, global_batch_size=8, steps=5)

Arrays = tuple[np.ndarray, np.ndarray]  # images, labels
# A row of StepMetrics for each step; the weights, with their average as in `Run`.
Ended = tuple[np.ndarray, Weights]


def config_of(*overrides: str) -> Config:
    """What these keys compose, on CPUs; for scripts, which have no fixtures."""
    ConfigStore.instance().store("schema", node=Config)
    conf = Path(__file__).resolve().parents[2] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        return to_config(compose("config", ["platform=cpu", *overrides]))


def random_weights(config: Config, seed: int = 0) -> Weights:
    """No number is zero: with zero biases a wrong layer would stay invisible.

    Scales lie around 1, variances are positive.
    """
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        weights[name] = generator.normal(name.endswith(".scale"), 0.2, shape)
        if name.endswith(".var"):
            weights[name] = generator.uniform(0.5, 2, shape)
    return weights


def random_arrays(config: Config) -> Arrays:
    """Random images with labels for classes or for regression."""
    generator = np.random.default_rng(1)
    shape = (EXAMPLES, *config.data.image_shape)
    images = generator.integers(256, size=shape, dtype=np.uint8)
    if config.data.classes:
        return images, generator.integers(10, size=EXAMPLES, dtype=np.int32)
    return images, generator.normal(size=EXAMPLES)


def with_average(weights: Weights, average: dict[str, Weights]) -> Weights:
    """As `Run.weights` has both; of `save_average`'s arrays."""
    averages = average.get("average", {})
    return weights | {f"{AVERAGE}{name}": array for name, array in averages.items()}


def micro_batches(
    config: Config, batches: Iterable[np.ndarray], rank: int, processes: int
) -> Iterable[tuple[np.ndarray, Any]]:
    """This rank's rows of each batch, their augmentation, and their dropout's keys."""
    for step, batch in enumerate(batches):
        whole = batch.reshape(config.train.grad_accum_steps, -1)
        rows = rank_slice(whole.T, rank, processes).T
        at = config, PLAN, step, rows
        yield rows, batch_draws(*at), batch_keys(*at)


def torch_steps(
    config: Config,
    weights: Weights,
    arrays: Arrays,
    batches: Iterable[np.ndarray],
    rate: float,
    world: torch_parallel.World,
) -> Ended:
    data = torch_step.DeviceData(
        *(torch_parallel.replicate(a, world) for a in (*arrays, *pixel_affine(config)))
    )
    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, world)
    torch_exchange.scope_norms(model, world)
    every_pass = config.train.grad_accum_steps == 1
    parallel = torch_parallel.parallelize(model, world, every_pass)
    optimizer = torch_optim.build_optimizer(config, model)
    average = torch_ema.build_average(config, model, weights, None, world)
    scale, seen = torch_parallel.replicate(initial_loss_scale(config), world), []
    placed = [
        [torch_parallel.place_batch(c, world, axis=1) for c in columns]
        for columns in micro_batches(config, batches, world.rank, world.processes)
    ]
    if config.compile:
        made = model, parallel, optimizer, data
        torch_step.compile_steps(config, *made, *placed[0], scale, world, average)
    for columns in placed:
        scale, metrics = torch_step.train_step(
            *(config, parallel, optimizer, data),
            *columns,
            *(rate, scale, world, average),
        )
        (loss,) = torch_parallel.sum_over_ranks([metrics.loss], world)
        seen.append([float(number) for number in metrics._replace(loss=loss)])
    torch_exchange.share_statistics(model, world)
    saved = torch_weights.save_weights(model, world)
    if average is not None:
        torch_exchange.share_statistics(average.model, world)
    averaged, _ = torch_ema.save_average(average, world)
    return np.array(seen), with_average(saved, averaged)


def jax_steps(
    config: Config,
    weights: Weights,
    arrays: Arrays,
    batches: Iterable[np.ndarray],
    rate: float,
    world: jax_parallel.World,
) -> Ended:
    step, state, others = jax_call(config, weights, arrays, batches, rate, world)
    compiled, _ = jax_parallel.parallelize(
        step, (state, *others[0]), world, donate=True
    )
    seen = []
    for given in others:
        state, metrics = compiled(state, *given)
        seen.append([jax_parallel.to_host([n], world)[0] for n in metrics])
    saved = jax_weights.save_weights(state.params, state.statistics, world)
    averaged, _ = jax_ema.save_average(state.average, world)
    return np.array(seen, np.float64), with_average(saved, averaged)


def jax_call(
    config: Config,
    weights: Weights,
    arrays: Arrays,
    batches: Iterable[np.ndarray],
    rate: float,
    world: jax_parallel.World,
) -> tuple[Callable[..., Any], jax_step.TrainState, list[Any]]:
    """JAX's step, the state before the first, and each one's other arguments."""
    data = jax_parallel.replicate((*arrays, *pixel_affine(config)), world)
    model = jax_model.build_model(config)
    jax_exchange.scope_norms(model, world)
    graphdef, params, statistics = jax_weights.load_weights(model, weights)
    optimizer = jax_optim.build_optimizer(config, params)
    trained, _ = jax_freeze.split_frozen(config, params)
    state = jax_step.TrainState(
        params=jax_parallel.place_state(params, world),
        statistics=jax_parallel.replicate(statistics, world),
        optimizer=jax_parallel.place_state(optimizer.init(trained), world),
        loss_scale=jax_parallel.replicate(initial_loss_scale(config), world),
        average=jax_ema.build_average(config, model, weights, None, world),
    )
    others = [
        (
            jax_step.DeviceData(*data),
            *(jax_parallel.place_batch(c, world, axis=1) for c in columns),
            jax_parallel.replicate(np.asarray(rate, data[2].dtype), world),
        )
        for columns in micro_batches(config, batches, 0, 1)
    ]
    step = partial(jax_step.train_step, config, graphdef, optimizer, world)
    return step, state, others


def record(
    config: Config, seen: np.ndarray, weights: Weights, test: dict[str, Any]
) -> Run:
    """What a run folder would hold of these steps, weights and test metrics."""
    summary = {
        "framework": "torch",
        "world_size": 1,
        "config_hash": "recipe",
        "data_fingerprint": "data",
        "test": test,
    }
    rows = [
        {
            **{"kind": "step", "loss": loss, "grad_norm": norm, "loss_scale": scale},
            "learning_rate": 0.1,
        }
        for loss, norm, scale, _ in seen.tolist()
    ]
    return Run(Path(), config, {}, summary, rows, weights)
