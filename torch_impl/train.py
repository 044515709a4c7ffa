"""A run from top to bottom. Read it beside `jax_impl/train.py`."""

from pathlib import Path
from typing import Any

import numpy as np

from data.ahead import Ahead
from data.batches import window_batches
from data.dataset import acquire, load
from recipe.clients import RoundPlan, plan_of
from recipe.config import Config
from recipe.pixels import pixel_affine
from recipe.schedule import learning_rates
from recipe.weights import parameter_count
from record.clock import Clock
from record.session import Session
from record.weights import starting_weights
from runtime.heartbeat import Heartbeat
from runtime.processes import Processes
from runtime.signals import Stopping
from torch_impl.cache import open_cache
from torch_impl.checkpoint import evaluated, load_state, save_state, save_trained
from torch_impl.evaluate import evaluate
from torch_impl.exchange import scope_norms, share_statistics
from torch_impl.federated import place_rounds, round_step
from torch_impl.local_sgd import build_local, finish_step, gather_rounds
from torch_impl.metrics import gather_metrics
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
    synchronize,
)
from torch_impl.precision import configure, settings
from torch_impl.profile import start_profile
from torch_impl.step import DeviceData, compile_steps, one_step, train_step
from torch_impl.trace import trace_planned
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
    local = build_local(config, model, weights, resumed, world)

    # Compiled, if asked for, before the clock of the first window starts
    session.ready()
    compilation = None
    if config.compile:
        first = window_batches(config, plan, range(1), world.rank, world.processes)
        batch = one_step(place_batch(first, world, axis=2), 0)
        parts = model, parallel, optimizer, train_data
        rest: Any = loss_scale, world, average or local
        compilation = compile_steps(config, *parts, *batch, *rest)

    def prepare(steps: range) -> tuple[list[float], tuple]:
        """The learning rates of steps, and their batches on the device."""
        if isinstance(plan, RoundPlan):
            batches = place_rounds(config, plan, steps, world)
        else:
            rows = config, plan, steps, world.rank, world.processes
            batches = place_batch(window_batches(*rows), world, axis=2)
        return learning_rates(config, plan, steps), batches

    ahead = Ahead(prepare)
    advance = round_step if isinstance(plan, RoundPlan) else train_step

    def issue(steps: range, following: range, clock: Clock) -> tuple[list, list, list]:
        """Issue steps, prepare the following; returns rates, metrics and rounds."""
        nonlocal loss_scale
        with clock.data():
            rates, batches = ahead.take(steps)
        with clock.dispatch():
            metrics, rounds = [], []
            for position, step in enumerate(steps):
                if step + 1 == plan.trace:
                    given = train_data, plan, step, loss_scale, world
                    record.trace(trace_planned(config, model, *given))
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
                    warms_up=step < config.parallel.warmup_steps,
                )
                metrics.append(seen)
                if local is not None and local.rounds.acts(step + 1):
                    rounds += finish_step(local, step + 1, world)
        with clock.data():  # while the device computes
            ahead.look(following)
        return rates, metrics, rounds

    with session.recording(
        parameter_count(config, weights),
        compilation,
        lambda at: start_profile(at, world),
        settings(config, world),
    ) as record:
        for window in session.windows():  # raises on all ranks if one was asked to stop
            with session.clock(window) as clock:
                rates, metrics, rounds = issue(window.steps, window.following, clock)
                synchronize(world)
            record.window(
                window,
                clock.times,
                learning_rates=rates,
                rounds=gather_rounds(rounds, world),
                **gather_metrics(metrics, world),
            )
            done = local, window.steps.stop, world
            if window.evaluates:
                shown = evaluated(model, average, *done)
                share_statistics(shown, world)
                scores = evaluate(
                    config, shown, test_data, len(dataset.test_labels), world
                )
                record.evaluation(window, scores)
            if session.save_due(window):
                held = config, model, optimizer, average, loss_scale
                record.save(window, *save_state(*held, *done))
        peak = session.ranks.gather([peak_memory_bytes(world)]).max()
        result = save_trained(model, average, local, plan.last, world)
        record.trained(result, int(peak))
        session.measure(issue, lambda: synchronize(world))
        session.finish()
    return record.path
