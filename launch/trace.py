"""Train both twins up to one step, and compare that step layer by layer."""

import json

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch.cli import print_whole, say
from launch.leaves import check_own_leaves
from launch.trainings import Training, make_folder, train_at_once, trainer, typed_keys
from recipe.errors import ConfigError
from recipe.parity import ParityConfig
from recipe.weights import Weights
from record.run import Run
from record.trace import Trace, read_trace
from report.parity.bounds import BOUNDS, IDENTICAL
from report.parity.rounding import no_gradient, reach
from report.parity.trace import Difference, TraceVerdict, compare_traces
from runtime.processes import Processes
from runtime.world import check_world


def trace_twins(config: ParityConfig) -> None:
    """Train both twins up to the step, compare it, print and write.

    Raises:
      ConfigError: before anything starts.
      SystemExit: 1 if they differ.
    """
    if any(t.lstrip("+").startswith("world_sizes=") for t in typed_keys()) and (
        config.world_sizes != [1]
    ):
        raise ConfigError(
            f"trace={config.trace} compares one device of each twin, got "
            f"world_sizes={config.world_sizes}; leave world_sizes out"
        )
    config.devices = 1
    check_world(config, Processes())
    config.devices = None
    check_own_leaves(config)
    folder = make_folder(config, "trace")
    console = Console(highlight=False)
    seeds = range(1, config.controls + 1) if _needs_controls(config) else ()
    todo = [
        Training(name, perturb_seed=seed)
        for seed in (0, *seeds)
        for name in ("torch", "jax")
    ]
    trained = trainer(config, folder, console)
    console.print(f"{config.name} up to step {config.trace}, {len(todo)} trainings:")
    runs = train_at_once(todo, trained)
    verdict = judge(config, runs)
    text = json.dumps(verdict.to_json(), indent=1, allow_nan=False)
    (folder / "trace.json").write_text(text + "\n")
    show(verdict, console)
    say(console, f"trace: {folder / 'trace.json'}")
    if verdict.verdict != IDENTICAL:
        raise SystemExit(1)


def _needs_controls(config: ParityConfig) -> bool:
    return BOUNDS[config.precision.name].controls


def judge(config: ParityConfig, runs: dict[Training, Run]) -> TraceVerdict:
    """Compare the twins, and controls with their originals."""
    assert config.trace is not None

    def step(run: Run, number: int = config.trace) -> tuple[Trace, Weights]:
        return read_trace(run.path, number), run.weights

    ones = {name: step(runs[Training(name)]) for name in ("torch", "jax")}
    return compare_traces(
        ones["torch"],
        ones["jax"],
        [(step(run), ones[t.framework]) for t, run in runs.items() if t.perturb_seed],
        experiment=config.name,
        precision=config.precision.name,
        reach=reach([runs[Training(name)] for name in ones], config.trace),
    )


def show(verdict: TraceVerdict, console: Console) -> None:
    """Print the layers in forward order, then the first difference and its suspects."""
    show_layers(verdict, console)
    say(console, f"verdict: {verdict.verdict}, by {verdict.decided_by}")
    say(console, verdict.message)
    if verdict.suspects:
        say(console, f"suspect: {verdict.suspects}")


def show_layers(verdict: TraceVerdict, console: Console) -> None:
    """A table of the layers in forward order, and of what was not compared.

    Of a layer that is called several times the worst call is shown.
    """
    title = f"{verdict.experiment} in {verdict.precision}, step {verdict.step}"
    table = Table(title=escape(title), box=SIMPLE_HEAD)
    for column in ("layer", "torch", "jax"):
        table.add_column(column, no_wrap=True)
    for column in ("output", "gradient", "weights' gradients"):
        table.add_column(column, no_wrap=True, justify="right")
    calls: dict[str, list[str]] = {}  # of a layer, whose later ones are "layer#2"
    for call in verdict.kinds:
        calls.setdefault(call.partition("#")[0], []).append(call)
    for layer, its_calls in calls.items():
        kinds = verdict.kinds[its_calls[0]]
        of_layer = [d for d in verdict.differences if d.layer in its_calls]
        output = [d for d in of_layer if d.stage == "forward"]
        backward = [d for d in of_layer if d.stage == "backward"]
        own = [d for d in backward if d.what.endswith("output")]
        leaves = [d for d in backward if not d.what.endswith("output")]
        cells = [_worst(group) for group in (output, own, leaves)]
        times = f" × {len(its_calls)}" if its_calls[1:] else ""
        table.add_row(escape(layer + times), *map(escape, kinds), *cells)
    print_whole(table, console)
    for name in verdict.alone:
        say(console, f"in one twin alone: {name}")
    if verdict.wandering:
        say(console, no_gradient(verdict.wandering))


def _worst(group: list[Difference]) -> str:
    """The one closest to its bound or furthest beyond it, which is in red."""
    if not group:
        return "–"
    worst = max(group, key=lambda d: d.value / d.allowed)
    text = f"{worst.value:.1e}"
    return f"[bold red]{text}[/]" if worst.differs else text
