"""A run from top to bottom. Read it beside `torch_impl/train.py`."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.augment import batch_draws
from data.batches import window_batches
from data.dataset import acquire, load
from data.dropout import batch_keys
from jax_impl.cache import all_found, lookups, open_cache
from jax_impl.ema import Average, build_average, save_average
from jax_impl.measure import measure
from jax_impl.model import build_model
from jax_impl.optim import build_optimizer, load_slots, save_slots
from jax_impl.parallel import (
    World,
    device_names,
    parallelize,
    peak_memory_bytes,
    place_batch,
    place_state,
    replicate,
    scope_norms,
    start,
    stop,
    sum_over_ranks,
    synchronize,
    to_host,
)
from jax_impl.precision import configure, parameter_dtype
from jax_impl.profile import start_profile
from jax_impl.step import (
    DeviceData,
    StepMetrics,
    TrainState,
    eval_step,
    window_step,
)
from jax_impl.trace import trace_step
from jax_impl.weights import load_weights, save_weights
from recipe.batch_plan import BatchPlan, evaluation_batches
from recipe.config import Config
from recipe.errors import DuetError, LostError
from recipe.loss_scale import initial_loss_scale, loss_scale_state
from recipe.pixels import pixel_affine
from recipe.schedule import learning_rate
from recipe.timing import Pace
from recipe.weights import parameter_count
from record.environment import process_age_seconds
from record.metrics import evaluation_metrics
from record.recorder import Facts, Recorder
from record.resume import Beginning
from record.stopping import STOP, stopped_error
from record.trace import Trace
from record.weights import starting_weights
from runtime.heartbeat import Heartbeat
from runtime.processes import Processes
from runtime.signals import Stopping


def run(
    config: Config, processes: Processes, stopping: Stopping, heartbeat: Heartbeat
) -> Path:
    """Train, evaluate and record one run; every process of it calls this.

    Args:
      stopping, heartbeat: entered, since a start-up may be stopped, or a rank lost in
        it; here they are told what only a framework's start and end know.

    Returns:
      The run folder.

    Raises:
      DuetError: what was wrong and how to mend it, on every rank.
    """
    world = start(config, processes)
    stopping.install()  # again: JAX's start takes SIGTERM for itself
    heartbeat.connect()
    try:
        folder = train(config, world, stopping, heartbeat)
    except LostError:
        raise  # there is no order to leave in
    except DuetError as error:
        # Every rank meets it alike, so all can leave in order; without the
        # traceback, whose frames would keep the model and the group alive.
        stop(world)
        heartbeat.close()
        raise error.with_traceback(None) from None
    stop(world)
    heartbeat.close()
    return folder


def train(
    config: Config, world: World, stopping: Stopping, heartbeat: Heartbeat
) -> Path:
    """The run itself, among processes that have met."""
    configure(config, world.mesh.local_devices[0])
    open_cache(config, world)

    # The numbers, the same for both frameworks
    world.ranks.from_rank_zero(lambda: acquire(config.data))
    dataset = world.ranks.on_every_rank(lambda: load(config.data))
    plan = BatchPlan.of(config, len(dataset.train_labels))
    weights = world.ranks.on_every_rank(lambda: starting_weights(config))
    beginning = Beginning(config)
    data = dataset.fingerprint
    path = world.ranks.from_rank_zero(lambda: beginning.find(plan, data, world.size))
    resumed = world.ranks.on_every_rank(lambda: beginning.read(path))
    if resumed is not None:
        weights = resumed.arrays["weights"]
    done = 0 if resumed is None else resumed.step
    kept = {} if resumed is None else resumed.state
    pixels = pixel_affine(config)
    asked = stopping.asked()
    if world.ranks.any(asked is not None):
        why = asked or "another rank"
        left = world.ranks.from_rank_zero(
            lambda: beginning.leave("jax", world.size, why)
        )
        raise stopped_error(Path(left) if left else None, done, why)

    # The framework's own: data, model and optimizer on the devices
    def place(*arrays: np.ndarray) -> DeviceData:
        return DeviceData(*replicate((*arrays, *pixels), world))

    train_data = place(dataset.train_images, dataset.train_labels)
    test_data = place(dataset.test_images, dataset.test_labels)
    model = build_model(config)
    scope_norms(model, world)
    graphdef, params, statistics = load_weights(model, weights)
    optimizer = build_optimizer(config, params)
    slots = optimizer.init(params)
    if resumed is not None:
        slots = load_slots(slots, resumed)
    state = TrainState(
        params=place_state(params, world),
        statistics=replicate(statistics, world),
        optimizer=place_state(slots, world),
        loss_scale=replicate(initial_loss_scale(config, kept), world),
        average=build_average(config, model, weights, resumed, world),
    )

    # Both steps compiled whole, before the clock of the first window starts
    dtype = parameter_dtype(config)
    ready, before = process_age_seconds(), lookups()
    first = window_batches(config, plan, range(1), world.rank, world.processes)
    batches = place_batch(first, world, axis=2)
    rates = replicate(np.zeros(config.train.window_steps, dtype), world)
    positions = replicate(list(np.arange(len(first.indices), dtype=np.int32)), world)
    rows = first.indices[0].reshape(-1)
    tested = place_batch((rows, rows > 0), world)
    tree = jax.tree.structure(state)
    compiled_train, train_seconds = parallelize(
        partial(window_step, config, graphdef, optimizer, world, tree),
        (jax.tree.leaves(state), train_data, batches, rates, positions[0]),
        world,
        donate=True,
    )
    compiled_eval, eval_seconds = parallelize(
        partial(eval_step, config, graphdef, world.axis),
        (state.params, state.statistics, test_data, *tested),
        world,
        donate=False,
    )

    facts = Facts(
        framework="jax",
        devices=device_names(world),
        rank=world.rank,
        processes=world.processes,
        world_size=world.size,
        parameters=parameter_count(weights),
        data_fingerprint=dataset.fingerprint,
        compiled=True,
        compile_seconds=train_seconds + eval_seconds,
        compile_cached=all_found(before),
        startup_seconds=ready,
    )
    folder = Path(world.ranks.from_rank_zero(lambda: beginning.take("jax", world.size)))
    stopping.watch(folder / STOP)
    heartbeat.watch(folder)

    def take_apart(state: TrainState, step: int) -> Trace:
        whole = plan.indices(step)
        draws = place_batch(batch_draws(config, plan, step, whole), world)
        keys = place_batch(batch_keys(config, plan, step, whole), world)
        batch = train_data, place_batch(whole, world), draws, keys
        return trace_step(config, graphdef, state, *batch, step + 1)

    with (
        Recorder(folder, config, plan, facts, beginning.writer, resumed) as record,
        heartbeat.guard(record.cut_short),
    ):

        def stop_if_failed() -> None:
            """Rank 0 alone records, and cannot leave alone: the others would wait."""
            failed = record.failure is not None
            record.stop_if(world.ranks.any(failed))

        def issue(steps: range) -> tuple[list[float], list[StepMetrics], float, float]:
            """Issue steps: rates, metrics, seconds to place batches and to dispatch."""
            nonlocal state
            placing = time.perf_counter()
            local = config, plan, steps, world.rank, world.processes
            batches = place_batch(window_batches(*local), world, axis=2)
            # Of steps that are timed beyond the last, its own.
            last = plan.last - 1
            rates = [learning_rate(config, min(s, last), plan.steps) for s in steps]
            padded = np.zeros(len(positions), dtype)
            padded[: len(rates)] = rates
            placed_rates = replicate(padded, world)
            issuing = time.perf_counter()
            metrics, leaves = [], jax.tree.leaves(state)
            for position, step in enumerate(steps):
                if step + 1 == plan.trace:
                    record.trace(take_apart(tree.unflatten(leaves), step))
                leaves, seen = compiled_train(
                    leaves, train_data, batches, placed_rates, positions[position]
                )
                metrics.append(seen)
            state = tree.unflatten(leaves)
            issued = time.perf_counter()
            return rates, metrics, issuing - placing, issued - issuing

        asked = stopping.asked()  # while compiling
        if world.ranks.any(asked is not None):
            stopped = record.stopped(done, asked or "another rank")
            stop_if_failed()
            raise stopped
        for window in plan.windows(
            config.train.window_steps,
            config.train.evaluate_every_epochs,
            config.checkpoint.every_steps,
            done,
        ):
            last = window.steps.stop == plan.last
            trace = start_profile(folder, world) if config.profile and last else None
            begin = time.perf_counter()
            rates, metrics, data_seconds, dispatch_seconds = issue(window.steps)
            synchronize(state)
            seconds = time.perf_counter() - begin
            if trace is not None:
                trace()

            ranks = world.ranks.gather([seconds, data_seconds, dispatch_seconds])
            heartbeat.progress(slow=window.evaluates or window.steps.stop == plan.last)
            record.window(
                window,
                losses=sum_over_ranks([m.loss for m in metrics], world),
                learning_rates=rates,
                grad_norms=to_host([m.grad_norm for m in metrics], world),
                loss_scales=to_host([m.loss_scale for m in metrics], world),
                skipped=to_host([m.skipped for m in metrics], world),
                seconds=ranks[:, 0],
                data_seconds=ranks[:, 1].max(),
                dispatch_seconds=ranks[:, 2].max(),
            )
            if window.evaluates:
                metrics = evaluate(
                    config,
                    compiled_eval,
                    state if state.average is None else state.average,
                    test_data,
                    len(dataset.test_labels),
                    world,
                )
                record.evaluation(window, metrics)

            # What rank 0 could not write stops all ranks here. So does a stop that one
            # rank was asked for, and so is a save due that its clock asks for.
            asked = stopping.asked()
            flags = record.failure is not None, asked is not None, record.time_is_up()
            any_failed, stops, due = world.ranks.gather(list(flags)).max(axis=0)
            record.stop_if(any_failed > 0)
            leaves = stops > 0 and window.steps.stop < plan.last
            if window.saves or due > 0 or leaves:
                slots, counts = save_slots(state.optimizer, world)
                averaged, updates = save_average(state.average, world)
                weights = save_weights(state.params, state.statistics, world)
                scale = jax.tree.map(
                    lambda number: to_host([number], world)[0], state.loss_scale
                )
                record.save(
                    window,
                    {"weights": weights, **slots, **averaged},
                    {**counts, **updates, **loss_scale_state(scale)},
                )
            if leaves:
                stopped = record.stopped(window.steps.stop, asked or "another rank")
                stop_if_failed()
                raise stopped

        peak = world.ranks.gather([peak_memory_bytes(world)]).max()
        averaged, _ = save_average(state.average, world)
        weights = save_weights(state.params, state.statistics, world)
        record.trained({"weights": weights, **averaged}, int(peak))
        measure(
            Pace.of(config, plan.last),
            issue,
            lambda: synchronize(state),
            record,
            stopping,
            heartbeat,
            world,
        )
        record.finish()
        stop_if_failed()
    return folder


def evaluate(
    config: Config,
    compiled_eval: Callable[..., Any],
    state: TrainState | Average,
    data: DeviceData,
    examples: int,
    world: World,
) -> dict[str, Any]:
    """The metrics over a whole split, each example counted once."""
    loss_sums, confusions = [], []
    for indices, mask in evaluation_batches(
        examples, config.train.global_batch, world.rank, world.processes
    ):
        loss_sum, confusion = compiled_eval(
            state.params,
            state.statistics,
            data,
            place_batch(indices, world),
            place_batch(mask, world),
        )
        # One at a time, unlike training steps, which wait for each other's state: CPU
        # devices share a pool of threads, and collectives of several steps in flight
        # can each hold some of it while waiting for the rest (a deadlock XLA aborts).
        synchronize(loss_sum)
        loss_sums.append(loss_sum)
        confusions.append(confusion)
    return evaluation_metrics(
        sum_over_ranks(loss_sums, world), sum_over_ranks(confusions, world), examples
    )
