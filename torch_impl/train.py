"""A run from top to bottom. Read it beside `jax_impl/train.py`."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from data.augment import batch_draws
from data.batches import window_batches
from data.dataset import acquire, load
from data.dropout import batch_keys
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
from torch_impl.cache import all_found, lookups, open_cache
from torch_impl.ema import build_average, save_average
from torch_impl.measure import measure
from torch_impl.model import build_model
from torch_impl.optim import build_optimizer, load_slots, save_slots
from torch_impl.parallel import (
    World,
    device_names,
    parallelize,
    peak_memory_bytes,
    place_batch,
    replicate,
    scope_norms,
    share_statistics,
    start,
    stop,
    sum_over_ranks,
    synchronize,
    to_host,
)
from torch_impl.precision import configure
from torch_impl.profile import start_profile
from torch_impl.step import (
    DeviceData,
    StepMetrics,
    compile_steps,
    eval_step,
    one_step,
    train_step,
)
from torch_impl.trace import trace_step
from torch_impl.weights import load_weights, save_weights


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
    configure(config, world.device)
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
            lambda: beginning.leave("torch", world.size, why)
        )
        raise stopped_error(Path(left) if left else None, done, why)

    # The framework's own: data, model and optimizer on the device
    def place(*arrays: np.ndarray) -> DeviceData:
        return DeviceData(*(replicate(array, world) for array in (*arrays, *pixels)))

    train_data = place(dataset.train_images, dataset.train_labels)
    test_data = place(dataset.test_images, dataset.test_labels)
    model = build_model(config)
    load_weights(model, weights, world)
    scope_norms(model, world)
    parallel = parallelize(model, world)
    optimizer = build_optimizer(config, model)
    if resumed is not None:
        load_slots(config, model, optimizer, resumed, world)
    average = build_average(config, model, weights, resumed, world)
    evaluated = model if average is None else average.model
    loss_scale = initial_loss_scale(config, kept)

    # Compiled, where that is asked for, before the clock of the first window starts
    ready, before, compile_seconds = process_age_seconds(), lookups(), 0.0
    if config.compile:
        first = window_batches(config, plan, range(1), world.rank, world.processes)
        batches = place_batch(first, world, axis=2)
        compile_seconds = compile_steps(
            config,
            model,
            parallel,
            optimizer,
            train_data,
            *one_step(batches, 0),
            loss_scale,
            world,
            average,
        )

    facts = Facts(
        framework="torch",
        devices=device_names(world),
        rank=world.rank,
        processes=world.processes,
        world_size=world.size,
        parameters=parameter_count(weights),
        data_fingerprint=dataset.fingerprint,
        compiled=config.compile,
        compile_seconds=compile_seconds,
        compile_cached=all_found(before) if config.compile else None,
        startup_seconds=ready,
    )
    folder = Path(
        world.ranks.from_rank_zero(lambda: beginning.take("torch", world.size))
    )
    stopping.watch(folder / STOP)
    heartbeat.watch(folder)

    def take_apart(step: int) -> Trace:
        whole = plan.indices(step)
        draws = place_batch(batch_draws(config, plan, step, whole), world)
        keys = place_batch(batch_keys(config, plan, step, whole), world)
        batch = train_data, place_batch(whole, world), draws, keys
        return trace_step(config, model, *batch, loss_scale, step + 1, world)

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
            nonlocal loss_scale
            placing = time.perf_counter()
            local = config, plan, steps, world.rank, world.processes
            batches = place_batch(window_batches(*local), world, axis=2)
            # Of steps that are timed beyond the last, its own.
            last = plan.last - 1
            rates = [learning_rate(config, min(s, last), plan.steps) for s in steps]
            issuing = time.perf_counter()
            metrics = []
            for position, step in enumerate(steps):
                if step + 1 == plan.trace:
                    record.trace(take_apart(step))
                loss_scale, seen = train_step(
                    config,
                    parallel,
                    optimizer,
                    train_data,
                    *one_step(batches, position),
                    rates[position],
                    loss_scale,
                    world,
                    average,
                )
                metrics.append(seen)
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
            synchronize(world)
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
                loss_scales=[m.loss_scale for m in metrics],
                skipped=[m.skipped for m in metrics],
                seconds=ranks[:, 0],
                data_seconds=ranks[:, 1].max(),
                dispatch_seconds=ranks[:, 2].max(),
            )
            if window.evaluates:
                share_statistics(evaluated, world)
                metrics = evaluate(
                    config, evaluated, test_data, len(dataset.test_labels), world
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
                slots, counts = save_slots(config, model, optimizer, world)
                averaged, updates = save_average(average, world)
                weights = save_weights(model, world)
                record.save(
                    window,
                    {"weights": weights, **slots, **averaged},
                    {**counts, **updates, **loss_scale_state(loss_scale)},
                )
            if leaves:
                stopped = record.stopped(window.steps.stop, asked or "another rank")
                stop_if_failed()
                raise stopped

        peak = world.ranks.gather([peak_memory_bytes(world)]).max()
        averaged, _ = save_average(average, world)
        weights = save_weights(model, world)
        record.trained({"weights": weights, **averaged}, int(peak))
        measure(
            Pace.of(config, plan.last),
            issue,
            lambda: synchronize(world),
            record,
            stopping,
            heartbeat,
            world,
        )
        record.finish()
        stop_if_failed()
    return folder


def evaluate(
    config: Config, model: nn.Module, data: DeviceData, examples: int, world: World
) -> dict[str, Any]:
    """The metrics over a whole split, each example counted once."""
    loss_sums, confusions = [], []
    for indices, mask in evaluation_batches(
        examples, config.train.global_batch, world.rank, world.processes
    ):
        loss_sum, confusion = eval_step(
            config, model, data, place_batch(indices, world), place_batch(mask, world)
        )
        loss_sums.append(loss_sum)
        confusions.append(confusion)
    return evaluation_metrics(
        sum_over_ranks(loss_sums, world), sum_over_ranks(confusions, world), examples
    )
