"""A run from top to bottom. Read it beside `jax_impl/train.py`."""

from pathlib import Path
from typing import Any

import numpy as np

from data.ahead import Ahead
from data.augment import batch_draws
from data.batches import window_batches
from data.dataset import acquire, load
from data.dropout import batch_keys
from recipe.clients import RoundPlan, plan_of
from recipe.config import Config
from recipe.pixels import pixel_affine
from recipe.schedule import learning_rates
from recipe.weights import parameter_count
from record.clock import Clock
from record.session import Session
from record.trace import Trace
from record.weights import starting_weights
from runtime.heartbeat import Heartbeat
from runtime.processes import Processes
from runtime.signals import Stopping
from torch_impl.cache import open_cache
from torch_impl.checkpoint import load_state, save_state, save_trained
from torch_impl.evaluate import evaluate
from torch_impl.exchange import scope_norms, share_statistics
from torch_impl.federated import place_rounds, round_step
from torch_impl.model import build_model
from torch_impl.optim import build_optimizer
from torch_impl.parallel import (
    World,
    device_names,
    parallelize,
    peak_memory_bytes,
    place_batch,
    replicate,
    start,
    stop,
    sum_over_ranks,
    synchronize,
    to_host,
)
from torch_impl.precision import configure, settings
from torch_impl.profile import start_profile
from torch_impl.step import DeviceData, compile_steps, one_step, train_step
from torch_impl.trace import trace_step
from torch_impl.weights import load_weights


def run(
    config: Config, processes: Processes, stopping: Stopping, heartbeat: Heartbeat
) -> Path:
    """Train, evaluate and record one run; called by every process of it.

    Args:
      stopping, heartbeat: entered already, since a run may be stopped or lose a rank
        during start-up; the session notifies them of the framework's start and end.

    Returns:
      The run folder.

    Raises:
      DuetError: what was wrong and what to do, on every rank.
    """
    world = start(config, processes)
    own = world.ranks, world.size, device_names(world)
    session = Session("torch", config, *own, stopping, heartbeat)
    return session.run(lambda: train(config, world, session), lambda: stop(world))


def train(config: Config, world: World, session: Session) -> Path:
    """The run itself, once its processes are connected."""
    configure(config, world.device)
    open_cache(config, world)

    # The numbers, the same for both frameworks
    session.ranks.from_rank_zero(lambda: acquire(config.data))
    dataset = session.ranks.on_every_rank(lambda: load(config.data))
    plan = plan_of(config, dataset.train_labels)
    weights = session.ranks.on_every_rank(lambda: starting_weights(config))
    resumed = session.resume(plan, dataset.fingerprint)
    weights = weights if resumed is None else resumed.arrays["weights"]
    pixels = pixel_affine(config)

    # The framework's own: data, model and optimizer on the device
    def place(*arrays: np.ndarray) -> DeviceData:
        return DeviceData(*(replicate(array, world) for array in (*arrays, *pixels)))

    train_data = place(dataset.train_images, dataset.train_labels)
    test_data = place(dataset.test_images, dataset.test_labels)
    model = build_model(config)
    load_weights(model, weights, world)
    scope_norms(model, world)
    parallel = parallelize(model, world, config.train.grad_accum_steps == 1)
    optimizer = build_optimizer(config, model)
    average, loss_scale = load_state(config, model, optimizer, weights, resumed, world)
    evaluated = model if average is None else average.model

    # Compiled, if asked for, before the clock of the first window starts
    session.ready()
    compilation = None
    if config.compile:
        first = window_batches(config, plan, range(1), world.rank, world.processes)
        batch = one_step(place_batch(first, world, axis=2), 0)
        parts = model, parallel, optimizer, train_data
        rest: Any = loss_scale, world, average
        compilation = compile_steps(config, *parts, *batch, *rest)

    def trace(step: int) -> Trace:
        whole = plan.indices(step)
        draws = place_batch(batch_draws(config, plan, step, whole), world)
        keys = place_batch(batch_keys(config, plan, step, whole), world)
        batch = train_data, place_batch(whole, world), draws, keys
        return trace_step(config, model, *batch, loss_scale, step + 1, world)

    def prepare(steps: range) -> tuple[list[float], tuple]:
        """The learning rates of steps, and their batches on the device."""
        if isinstance(plan, RoundPlan):
            batches = place_rounds(config, plan, steps, world)
        else:
            local = config, plan, steps, world.rank, world.processes
            batches = place_batch(window_batches(*local), world, axis=2)
        return learning_rates(config, plan, steps), batches

    ahead = Ahead(prepare)
    advance = round_step if isinstance(plan, RoundPlan) else train_step

    def issue(steps: range, following: range, clock: Clock) -> tuple[list[float], list]:
        """Issue steps, prepare the following; returns learning rates and metrics."""
        nonlocal loss_scale
        with clock.data():
            rates, batches = ahead.take(steps)
        with clock.dispatch():
            metrics = []
            for position, step in enumerate(steps):
                if step + 1 == plan.trace:
                    record.trace(trace(step))
                loss_scale, seen = advance(
                    config,
                    parallel,
                    optimizer,
                    train_data,
                    *one_step(batches, position),
                    learning_rate=rates[position],
                    loss_scale=loss_scale,
                    world=world,
                    average=average,
                )
                metrics.append(seen)
        with clock.data():  # while the device computes
            ahead.look(following)
        return rates, metrics

    with session.recording(
        parameter_count(config, weights),
        compilation,
        lambda at: start_profile(at, world),
        settings(config, world),
    ) as record:
        for window in session.windows():  # raises on all ranks if one was asked to stop
            with session.clock(window) as clock:
                rates, metrics = issue(window.steps, window.following, clock)
                synchronize(world)
            record.window(
                window,
                clock.times,
                learning_rates=rates,
                losses=sum_over_ranks([m.loss for m in metrics], world),
                grad_norms=to_host([m.grad_norm for m in metrics], world),
                loss_scales=to_host([m.loss_scale for m in metrics], world),
                skipped=to_host([m.skipped for m in metrics], world),
            )
            if window.evaluates:
                share_statistics(evaluated, world)
                scores = evaluate(
                    config, evaluated, test_data, len(dataset.test_labels), world
                )
                record.evaluation(window, scores)
            if session.save_due(window):
                record.save(
                    window,
                    *save_state(config, model, optimizer, average, loss_scale, world),
                )
        peak = session.ranks.gather([peak_memory_bytes(world)]).max()
        record.trained(save_trained(model, average, world), int(peak))
        session.measure(issue, lambda: synchronize(world))
        session.finish()
    return record.path
