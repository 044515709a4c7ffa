"""A run from top to bottom. Read it beside `torch_impl/train.py`."""

from pathlib import Path

import jax
import numpy as np

from data.ahead import Ahead
from data.batches import Batches, window_batches
from data.dataset import acquire, load
from jax_impl.cache import open_cache
from jax_impl.checkpoint import evaluated, load_state, save_state, save_trained
from jax_impl.evaluate import evaluate
from jax_impl.exchange import scope_norms
from jax_impl.federated import compile_rounds, place_rounds
from jax_impl.local_sgd import build_local, finish_step, gather_rounds
from jax_impl.metrics import gather_metrics
from jax_impl.model import build_model
from jax_impl.optim import build_optimizer
from jax_impl.parallel import (
    World,
    device_names,
    peak_memory_bytes,
    place_batch,
    replicate,
    start,
    stop,
    synchronize,
)
from jax_impl.precision import configure, parameter_dtype, settings
from jax_impl.profile import start_profile
from jax_impl.step import DeviceData, compile_steps
from jax_impl.trace import trace_planned
from jax_impl.weights import load_weights
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
    session = Session("jax", config, *own, stopping, heartbeat)
    return session.run(lambda: train(config, world, session), lambda: stop(world))


def train(config: Config, world: World, session: Session) -> Path:
    """The run itself, once its processes are connected."""
    configure(config, world.mesh.local_devices[0])
    open_cache(config, world)

    # The numbers, the same for both frameworks
    session.ranks.from_rank_zero(lambda: acquire(config.data))
    dataset = session.ranks.on_every_rank(lambda: load(config.data))
    plan = plan_of(config, dataset.train_labels)
    weights = session.ranks.on_every_rank(lambda: starting_weights(config))
    resumed = session.resume(plan, dataset.fingerprint)
    weights = weights if resumed is None else resumed.arrays["weights"]
    pixels = pixel_affine(config)

    # The framework's own: data, model and optimizer on the devices
    def place(*arrays: np.ndarray) -> DeviceData:
        return DeviceData(*replicate((*arrays, *pixels), world))

    train_data = place(dataset.train_images, dataset.train_labels)
    test_data = place(dataset.test_images, dataset.test_labels)
    model = build_model(config)
    scope_norms(model, world)
    graphdef, params, statistics = load_weights(model, weights)
    optimizer = build_optimizer(config, params)
    state = load_state(
        config, model, params, statistics, optimizer, weights, resumed, world
    )
    local = build_local(config, weights, resumed, world)

    # Both steps are compiled before the clock of the first window starts
    session.ready()
    given = config, graphdef, optimizer, state, train_data, test_data
    if isinstance(plan, RoundPlan):
        compiled_train, compiled_eval, compilation = compile_rounds(*given, plan, world)
    else:
        first = window_batches(config, plan, range(1), world.rank, world.processes)
        given = *given, first, world, local
        compiled_train, compiled_eval, compilation = compile_steps(*given)
    tree = jax.tree.structure(state)
    numbers = np.arange(config.train.log_every_steps, dtype=np.int32)
    positions = replicate(list(numbers), world)

    def prepare(steps: range) -> tuple[list[float], Batches | list, jax.Array]:
        """The learning rates of steps, and their batches and rates on the devices."""
        if isinstance(plan, RoundPlan):
            batches = place_rounds(config, plan, steps, world)
        else:
            rows = config, plan, steps, world.rank, world.processes
            batches = place_batch(window_batches(*rows), world, axis=2)
        rates = learning_rates(config, plan, steps)
        padded = np.zeros(len(positions), parameter_dtype(config))
        padded[: len(rates)] = rates
        return rates, batches, replicate(padded, world)

    ahead = Ahead(prepare)

    def issue(steps: range, following: range, clock: Clock) -> tuple[list, list, list]:
        """Issue steps, prepare the following; returns rates, metrics and rounds."""
        nonlocal state
        with clock.data():
            rates, batches, placed_rates = ahead.take(steps)
        with clock.dispatch():
            metrics, rounds, leaves = [], [], jax.tree.leaves(state)
            for position, step in enumerate(steps):
                if step + 1 == plan.trace:
                    given = tree.unflatten(leaves), train_data, plan, step, world
                    record.trace(trace_planned(config, graphdef, *given))
                leaves, seen = compiled_train[step < config.parallel.warmup_steps](
                    leaves, train_data, batches, placed_rates, positions[position]
                )
                metrics.append(seen)
                if local is not None and local.rounds.acts(step + 1):
                    state = tree.unflatten(leaves)
                    state, met = finish_step(local, state, step + 1, world)
                    leaves, rounds = jax.tree.leaves(state), rounds + met
            state = tree.unflatten(leaves)
        with clock.data():  # while the devices compute
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
                synchronize(state)
            record.window(
                window,
                clock.times,
                learning_rates=rates,
                rounds=gather_rounds(rounds, world),
                **gather_metrics(metrics, world),
            )
            done = local, window.steps.stop, world
            if window.evaluates:
                scores = evaluate(
                    config,
                    compiled_eval,
                    evaluated(state, *done),
                    test_data,
                    len(dataset.test_labels),
                    world,
                )
                record.evaluation(window, scores)
            if session.save_due(window):
                record.save(window, *save_state(state, *done))
        peak = session.ranks.gather([peak_memory_bytes(world)]).max()
        result = save_trained(state, local, plan.last, world)
        record.trained(result, int(peak))
        session.measure(issue, lambda: synchronize(state))
        session.finish()
    return record.path
