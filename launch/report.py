"""Write the scaling report of run folders and studies.

    python launch/report.py runs/study-demo
    python launch/report.py runs/one-study runs/another --out runs/report-both
    python launch/report.py --wandb ENTITY/PROJECT --out runs/report

Takes any folders that contain run folders. Writes index.html (self-contained),
report.md, report.json, table.csv and figures/ to --out, by default `report` in the
first folder; an earlier report there is replaced.
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

import argparse
from dataclasses import replace
from pathlib import Path

from launch.cli import plain_main
from recipe.errors import ConfigError
from record.wandb_project import fetch_runs, log_report
from report.analysis.findings import Options, gather
from report.analysis.interconnects import INTERCONNECTS, read_interconnect
from report.analysis.runs import Skipped
from report.page.points import report_rows
from report.write import FETCHED, check_place, write_report


def parser() -> argparse.ArgumentParser:
    """The command line."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, help="folder of the report")
    parser.add_argument(
        "--base",
        type=int,
        default=1,
        help="world size that speed-ups are relative to (1)",
    )
    parser.add_argument(
        "--accuracy",
        type=float,
        help="test accuracy, in (0, 1], for the time to accuracy; by "
        "default the highest whole per cent that every run reached",
    )
    parser.add_argument(
        "--interconnect",
        help=f"to project over: {', '.join(INTERCONNECTS)}, or a file that "
        "benchmarks/all_reduce.py wrote; by default that of the device's usual machine",
    )
    parser.add_argument(
        "--peak-flops",
        type=float,
        help="peak FLOP/s of one device, if its data sheet is unknown here",
    )
    parser.add_argument(
        "--wandb",
        metavar="ENTITY/PROJECT",
        help="read this project's finished training runs, and keep them as run "
        "folders in --out/wandb-runs/ENTITY/PROJECT",
    )
    parser.add_argument(
        "--log-wandb",
        nargs="?",
        const="duet",
        metavar="ENTITY/PROJECT",
        help="also log the report there, offline without a key or network",
    )
    return parser


def main(typed: list[str]) -> None:
    """Read, compute, write, and print the path.

    Raises:
      DuetError: with what is wrong, in one line.
    """
    given = parser().parse_args(typed)
    if not given.folders and not given.wandb:
        raise ConfigError("give run folders, or folders that contain some; see --help")
    if not given.folders and not given.out:
        raise ConfigError("--wandb needs --out, the folder of the report")
    parts = given.wandb.split("/") if given.wandb else ()
    if given.wandb and (len(parts) != 2 or {"", ".", ".."} & {*parts}):
        raise ConfigError(f"--wandb takes ENTITY/PROJECT, got {given.wandb}")
    if given.base < 1:
        raise ConfigError(f"--base must be at least 1, got {given.base}")
    if given.accuracy is not None and not 0 < given.accuracy <= 1:
        raise ConfigError(f"--accuracy must lie in (0, 1], got {given.accuracy}")
    if given.peak_flops is not None and not 0 < given.peak_flops < float("inf"):
        raise ConfigError(f"--peak-flops must be positive, got {given.peak_flops}")
    net = read_interconnect(given.interconnect) if given.interconnect else None
    options = Options(
        base=given.base,
        target=given.accuracy,
        interconnect=net,
        peak_flops=given.peak_flops,
    )
    out = given.out or given.folders[0] / "report"
    check_place(out)
    if given.wandb:
        place = out / FETCHED / given.wandb
        fetched, others = fetch_runs(given.wandb, place)
        # Runs already there that this call did not list are excluded.
        folders = [*given.folders, *fetched]
        report = gather(folders, options, [Skipped(*other) for other in others])
        report = replace(report, roots=(*given.folders, place))
    else:
        report = gather(given.folders, options)
    page = write_report(report, out)
    for left in report.scaling.skipped:
        print(f"skipped: {left.name}: {left.reason}")
    print(f"page: {page}")
    if given.log_wandb:
        images = {png.stem: png for png in sorted((out / "figures").glob("*.png"))}
        log_report(given.log_wandb, out, report_rows(report), images, page)


if __name__ == "__main__":
    plain_main(main)
