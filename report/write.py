"""A report's files: the page, its figures, the numbers behind them."""

from pathlib import Path

from recipe.errors import RecordError
from record.disk import recording, write_whole
from report.analysis.findings import Options, Report, gather
from report.page.chart import to_csv
from report.page.charts import charts
from report.page.export import to_csv as table_csv
from report.page.export import to_json
from report.page.figures import draw
from report.page.scaling import page, to_markdown

PAGE, JSON = "index.html", "report.json"
FETCHED = "wandb-runs"  # run folders beside a report, that it was made of


def check_place(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier report; touches nothing.

    Raises:
      RecordError: saying what to do.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RecordError(f"--out {folder} is a file; choose another")
    others = {path.name for path in folder.iterdir()} - {FETCHED}
    if others and not (folder / JSON).exists():
        raise RecordError(
            f"--out {folder} holds files that are not a report's; nothing is "
            "overwritten: choose another folder"
        )


def report_on(folder: Path) -> str:
    """Write a study's report into its folder, and say where or why there is none.

    A failed report does not fail the study.
    """
    try:
        return f"report: {write_report(gather([folder], Options()), folder / 'report')}"
    except RecordError as error:
        return f"no report: {error}"


def write_report(report: Report, folder: Path) -> Path:
    """Write the report, replacing an earlier one.

    index.html        the page, which needs no other file
    report.md         for a pull request
    report.json       for machines
    table.csv         a row for every point
    figures/          PNG and SVG of each figure, and the CSV behind it

    Returns:
      The page.

    Raises:
      RecordError: if the folder holds something else, or cannot be written.
    """
    check_place(folder)
    figures = folder / "figures"
    with recording(folder):
        figures.mkdir(parents=True, exist_ok=True)
        for old in figures.iterdir():
            old.unlink()
        write_whole(folder / JSON, to_json(report).encode())
        write_whole(folder / "report.md", to_markdown(report).encode())
        write_whole(folder / "table.csv", table_csv(report).encode())
        drawn = []
        for chart in charts(report):
            _, svg = draw(chart, figures)
            (figures / f"{chart.name}.csv").write_text(to_csv(chart), encoding="utf-8")
            drawn.append((chart, svg))
        write_whole(folder / PAGE, page(report, drawn).encode())
    return folder / PAGE
