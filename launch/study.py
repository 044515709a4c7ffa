"""Run a study: one recipe in every configuration of a plan, several times.

    python launch/study.py study=demo
    python launch/study.py study=strong cluster=slurm cluster.gpus_per_node=4

When started again it runs what is missing. Writes study.json (the plan and its order),
cells.jsonl (when and how each run ended), the parity check and every run to `run.dir`.
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from launch import hosts
from launch.cli import alone_main, say
from launch.nodes import check_machine, check_plan
from launch.study_folder import StudyFolder
from launch.study_plan import (
    Study,
    check_parity,
    check_runs,
    recipe_overrides,
    works,
)
from launch.study_run import Runner
from launch.study_screen import show_plan
from launch.trainings import typed_keys
from recipe.errors import ConfigError
from recipe.study import StudyConfig, study_runs
from record.disk import locked
from record.folder import check_folder


def checked(config: StudyConfig, typed: list[str]) -> Study:
    """The requested study in its folder, fully checked.

    Args:
      typed: group=option and key=value, from the command line.

    Raises:
      ConfigError, RecordError: if any part of it is invalid.
    """
    plan, cluster = config.study, config.cluster
    check_plan(cluster, plan.world_size)
    cores, not_here = cores_of(config)
    recipe = recipe_overrides(config, typed)
    study = Study(
        plan=plan,
        cluster=cluster,
        recipe=recipe,
        train=check_runs(plan, recipe).train,
        data_root=Path(config.data.root).absolute(),
        folder=Path(config.run.dir or f"runs/study-{plan.name}").absolute(),
        cores=cores,
        not_here=not_here,
    )
    study = replace(study, checked_at=check_parity(study))
    folder = StudyFolder(study.folder)
    if folder.description.exists():
        return folder.resumed(study)
    config.run.dir = str(study.folder)
    check_folder(config)
    return study


def cores_of(config: StudyConfig) -> tuple[int, str]:
    """Cores of each device, and why the study cannot run on this machine, if it cannot.

    Raises:
      ConfigError: for the latter, except in a dry run.
    """
    linked = config.study.bandwidth_mbit is not None
    try:
        if linked and (reason := hosts.why_not()):
            raise ConfigError(f"study.bandwidth_mbit: {reason}")
        return check_machine(config.cluster, config.study.world_size, linked), ""
    except ConfigError as error:
        if not config.dry_run:
            raise
        # Only the target machine can tell.
        return config.cluster.cores_per_device or 1, str(error)


def run_study(config: StudyConfig) -> None:
    """Check everything, then run what is missing and print the results.

    Raises:
      ConfigError: before anything starts.
      SystemExit: 1 if anything failed, or a parity check found a difference.
    """
    study = checked(config, typed_keys())
    console = Console(highlight=False)
    if config.dry_run:
        show_plan(study, console)
        return
    study.folder.mkdir(parents=True, exist_ok=True)
    # A second start would repeat the same runs, and end those of the first.
    with locked(study.folder / ".lock"):
        run_and_report(study, console)


def run_and_report(study: Study, console: Console) -> None:
    """Run what is missing, write the report, and print what it does not include.

    Raises:
      SystemExit: 1 if anything failed, or a parity check found a difference.
    """
    say(console, f"{study.folder}: {len(study_runs(study.plan))} runs")
    if study.cluster.name == "slurm":
        say(
            console,
            "watch: squeue --me --name=duet (later sacct --name=duet); logs: *.log in "
            "that folder",
        )
    failed = Runner(study, console).run()
    from report.write import (
        report_on,
    )  # here, since importing matplotlib takes a second

    say(console, report_on(study.folder))
    different = StudyFolder(study.folder).different(works(study))
    if different:
        say(console, f"{', '.join(different)} is not identical: do not compare speeds")
    if failed:
        say(console, f"failed, and repeated by the next start: {', '.join(failed)}")
    if failed or different:
        raise SystemExit(1)


if __name__ == "__main__":
    alone_main(run_study, config_name="study", schema=StudyConfig)
