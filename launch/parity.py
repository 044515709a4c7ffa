"""Train one recipe in both frameworks and decide whether the runs are identical.

    python launch/parity.py experiment=digits_cnn 'world_sizes=[1,2]' precision=fp64

Writes parity.json, parity.png, index.html and every run to `run.dir`; exits 1 if a
bound is exceeded, 3 if the result is inconclusive. Two more modes compare the step
where the losses diverge, layer by layer, and two finished runs:

    python launch/parity.py experiment=digits_cnn precision=fp64 trace=1
    python launch/parity.py a=runs/one b=runs/another
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.folder import class_names
from launch.cli import alone_main, print_whole, say
from launch.leaves import check_own_leaves
from launch.trace import trace_twins
from launch.trainings import (
    Training,
    check_sizes,
    make_folder,
    train_at_once,
    trainer,
    typed_keys,
)
from recipe.errors import ConfigError
from recipe.execution import Strategy
from recipe.parity import ParityConfig
from record.gpus import check_gpus_used
from record.run import Run, read_finished
from record.weights import check_weights
from report.page.parity import write_parity_page
from report.parity.bounds import (
    BOUNDS,
    DIFFERENT,
    PASSES,
    UNDECIDED,
)
from report.parity.compare import compare, compare_two, label_of
from report.parity.devices import devices_differ
from report.parity.differences import envelope
from report.parity.verdict import Verdict
from runtime.devices import jax_finds_gpus

EXIT_UNDECIDED = 3  # 1 is a difference, 2 a check that could not start


def parity(config: ParityConfig) -> None:
    """The requested check: of two runs, of one step, or of whole trainings.

    Raises:
      ConfigError: before anything starts.
    """
    if config.a is not None:
        return compare_runs(config)
    # Else this would appear after PyTorch has trained.
    check_gpus_used("JAX", config.platform, jax_finds_gpus(os.environ), os.environ)
    class_names(config.data)  # refuses a folder of images that is not one
    if config.trace is not None:
        trace_twins(config)
    else:
        check_parity(config)


def trainings(config: ParityConfig) -> Iterator[Training]:
    """Every run of the check, reference runs first."""
    for world_size in sorted({1, *config.world_sizes}):
        yield Training("torch", world_size, world_size)
        if "devices" in config.jax_layouts or world_size == 1:
            yield Training("jax", world_size)
        if "processes" in config.jax_layouts and world_size > 1:
            yield Training("jax", world_size, world_size)
    if BOUNDS[config.precision.name].controls:
        for seed in range(1, config.controls + 1):
            yield Training("torch", perturb_seed=seed)
            yield Training("jax", perturb_seed=seed)


def check_parity(config: ParityConfig) -> None:
    """Train, compare, print and write.

    Raises:
      ConfigError: before anything starts.
      SystemExit: 1 if a bound is exceeded, 3 if inconclusive.
    """
    check_sizes(config)
    check_weights(config)
    check_own_leaves(config)
    folder = make_folder(config, "parity")
    console = Console(highlight=False)
    todo = list(trainings(config))
    trained = trainer(config, folder, console)
    console.print(f"{config.name}, {len(todo)} trainings:")
    runs = {t: trained(t) for t in todo if not t.perturb_seed}
    runs |= train_at_once([t for t in todo if t.perturb_seed], trained)
    labelled = {t.label: run for t, run in runs.items()}
    verdict = judge(config, runs)
    if verdict.verdict == DIFFERENT:
        verdict.notes.append(
            "to find the layer: trace=1 compares the first step layer by layer"
        )
    conclude(folder, verdict, labelled, console)


def compare_runs(config: ParityConfig) -> None:
    """Compare two finished runs, print and write; nothing is trained.

    Raises:
      DuetError: if one is not a finished run, or they cannot be compared.
      SystemExit: 1 if they differ, 3 if inconclusive.
    """
    if extra := sorted(
        {t.partition("=")[0] for t in typed_keys()} - {"run.dir", *"ab"}
    ):
        raise ConfigError(
            "a= and b= compare finished runs, which have their own recipes: remove "
            f"{', '.join(extra)}"
        )
    folders = {n: Path(f) for n, f in (("a", config.a), ("b", config.b)) if f}
    runs = [read_finished(name, path) for name, path in folders.items()]
    labels = [f"{name}: {label_of(run)}" for name, run in zip("ab", runs, strict=True)]
    if label_of(runs[0]) == label_of(runs[1]):
        labels = [
            f"{name}: {path.resolve().name} ({label_of(run)})"
            for (name, path), run in zip(folders.items(), runs, strict=True)
        ]
    verdict = compare_two((labels[0], runs[0]), (labels[1], runs[1]))
    config.name = runs[0].config.name
    folder = make_folder(config, "parity")
    conclude(folder, verdict, dict(zip(labels, runs, strict=True)), Console())


def conclude(
    folder: Path, verdict: Verdict, runs: dict[str, Run], console: Console
) -> None:
    """Write and print the verdict; exit with its status."""
    command = [typed for typed in sys.argv if not typed.startswith("run.dir=")]
    page = write_parity_page(folder, verdict, runs, command)
    show(verdict, console)
    say(console, f"page: {page}")
    if verdict.verdict not in PASSES:
        raise SystemExit(EXIT_UNDECIDED if verdict.verdict == UNDECIDED else 1)


def judge(config: ParityConfig, runs: dict[Training, Run]) -> Verdict:
    """Compare frameworks at every world size, and world sizes with 1.

    Not those of local SGD, whose replicas train on other parts of a batch.
    """
    one_training = config.parallel.name != Strategy.LOCAL_SGD
    ones = {name: runs[Training(name)] for name in ("torch", "jax")}
    pairs = [(run, ones[t.framework]) for t, run in runs.items() if t.perturb_seed]
    control = envelope(pairs) if pairs else None
    comparisons = []
    for training, run in runs.items():
        mine = training.label, run
        if training.framework == "jax" and not training.perturb_seed:
            size = training.world_size
            other = Training("torch", size, size)
            comparisons.append(
                compare(mine, (other.label, runs[other]), "frameworks", control)
            )
        if training.world_size > 1 and one_training:
            one = Training(training.framework)
            comparisons.append(
                compare(mine, (one.label, runs[one]), "world sizes", control)
            )
    any_run = ones["torch"]
    return Verdict(
        experiment=config.name,
        precision=config.precision.name,
        config_hash=any_run.summary["config_hash"],
        data_fingerprint=any_run.summary["data_fingerprint"],
        comparisons=comparisons,
        control=control,
        notes=devices_differ({t.label: run.environment for t, run in runs.items()}),
    )


def show(verdict: Verdict, console: Console) -> None:
    """The verdict as a table."""
    title = escape(f"{verdict.experiment} in {verdict.precision}, relative differences")
    table = Table(title=title, box=SIMPLE_HEAD)
    for column in ("run", "against"):
        table.add_column(column, no_wrap=True)
    for column in ("step 1", "worst step", "weights"):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("verdict", no_wrap=True)
    for c in verdict.comparisons:
        table.add_row(
            c.a,
            c.b,
            f"{c.differences[0]:.1e}",
            f"{max(c.differences):.1e}",
            f"{c.leaves[c.worst_leaf]:.1e}",
            c.verdict,
        )
    print_whole(table, console)
    for c in verdict.comparisons:
        for reason in c.broken + c.unseen:
            say(console, f"{c.a} against {c.b}: {reason}")
    for note in [*verdict.set_apart, *verdict.notes]:
        say(console, note)
    say(console, f"verdict: {verdict.verdict}, by {verdict.decided_by}")


if __name__ == "__main__":
    alone_main(parity, config_name="parity", schema=ParityConfig)
