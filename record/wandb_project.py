"""A W&B project for the report: fetches its runs as run folders, and logs the report.

wandb is not imported before a report asks for it.
"""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from recipe.config import Config, from_yaml, to_yaml
from recipe.errors import DuetError, RecordError
from recipe.renamed import with_new_fields
from record import wandb_settings
from record.disk import to_json, write_whole
from record.schema import READABLE, SUMMARY, strict_json
from record.tracking import NAMESPACES, Row

API_SECONDS = 60  # for one answer of W&B's API

KINDS = {namespace: kind for kind, namespace in NAMESPACES.items()}


def fetch_runs(path: str, folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """Write the training runs of a W&B project as run folders, named by their id.

    They hold what the runs' own folders do, without weights, checkpoints and logs. A
    run is fetched again only if its summary on W&B has changed.

    Args:
      path: "ENTITY/PROJECT".
      folder: that the run folders are written to; others in it are left alone.

    Returns:
      The folders of all finished runs in the project, and the other runs by name with
      the reason.

    Raises:
      RecordError: if W&B does not answer, or has no such project or no run in it.
    """
    import wandb

    places: list[Path] = []
    skipped: list[tuple[str, str]] = []
    try:
        api = wandb.Api(timeout=API_SECONDS)
        for run in api.runs(
            path, {"jobType": wandb_settings.job_type()}, per_page=200, lazy=False
        ):
            try:
                place = folder / _file_name(run.id)
                _fetch(run, place)
                places.append(place)
            except (DuetError, KeyError, TypeError, ValueError) as error:
                known = isinstance(error, DuetError)
                reason = str(error) if known else f"{type(error).__name__}: {error}"
                skipped.append((f"{path}/{run.id} ({run.name})", reason))
    except OSError as error:
        raise RecordError(f"cannot write {folder}: {error.strerror}") from error
    except Exception as error:  # from wandb, the network, and its helper process
        raise RecordError(
            f"cannot read {path} from W&B: {error}; is it ENTITY/PROJECT, and is there "
            "a key (wandb login)?"
        ) from error
    if not places and not skipped:
        raise RecordError(
            f"{path} has no training runs; tracking=wandb mirrors them there "
            "(tracking.entity, tracking.project)"
        )
    return places, skipped


def _fetch(run: Any, place: Path) -> None:
    """Write one run from W&B, unless it is already there unchanged.

    Raises:
      RecordError: if it has not ended: it then has no summary, or an earlier start's.
    """
    if run.state == "running":
        raise RecordError("is still running; fetch it again when it has finished")
    if "status" not in run.summary_metrics:
        raise RecordError(f"has no summary, W&B calls it {run.state}: it was killed")
    # The summary on W&B also contains the last values of what was logged. Fields that
    # an earlier version did not log get their defaults.
    metrics = with_new_fields(dict(run.summary_metrics), SUMMARY)
    kept = {
        name: metrics.get(name)
        for name, field in SUMMARY.items()
        if name in metrics or field.since == READABLE[0]
    }
    summary = to_json(strict_json(kept))
    file = place / "summary.json"
    if file.exists() and file.read_bytes() == summary:
        return
    history = run.scan_history(use_cache=False)
    rows = [_row_of(logged) for logged in history if "step" in logged]
    _write_folder(place, run.config, summary, rows)


def _file_name(run_id: str) -> str:
    """The folder for a run id; the server's text must not choose where we write."""
    if not re.fullmatch(r"[\w-]+", run_id):
        raise RecordError(
            f"W&B has a run with id {run_id!r}, which cannot be a folder's name"
        )
    return run_id


def _row_of(logged: Row) -> Row:
    """The inverse of `named`: a row of `metrics.jsonl` from one of W&B's history.

    >>> _row_of({"_step": 7, "step": 20, "test/accuracy": 0.9})
    {'kind': 'evaluation', 'step': 20, 'accuracy': 0.9}
    """
    values = {key: value for key, value in logged.items() if "/" in key}
    (namespace,) = {key.partition("/")[0] for key in values}
    names = {key.partition("/")[2]: value for key, value in values.items()}
    return {"kind": KINDS[namespace], "step": logged["step"], **names}


def _write_folder(place: Path, config: Row, summary: bytes, rows: list[Row]) -> None:
    """Write a run folder, its summary last, as the run itself does."""
    names = [field.name for field in fields(Config)]
    own = {name: config[name] for name in names if name in config}
    text = to_yaml(from_yaml(json.dumps(own)))
    place.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(strict_json(row))}\n" for row in rows)
    (place / "config.yaml").write_text(text)
    (place / "metrics.jsonl").write_text(lines)
    (place / "environment.json").write_bytes(to_json(dict(config["environment"])))
    write_whole(place / "summary.json", summary)


def log_report(
    path: str, folder: Path, table: list[Row], images: dict[str, Path], page: Path
) -> None:
    """Log a report as a separate run (job_type=report), offline if it must be.

    Args:
      path: "ENTITY/PROJECT", or a project of the default entity.
      folder: for W&B's own files.
      table: rows of one kind.
      images: PNG by name.

    Raises:
      RecordError: if W&B fails; the report's own files are not affected.
    """
    import wandb

    entity, _, project = path.rpartition("/")
    try:
        quiet = wandb.Settings(**wandb_settings.shared_settings())
        shared = wandb.setup(quiet).settings
        here = wandb_settings.must_stay_here(shared.mode, shared.base_url)
        run = wandb.init(
            dir=folder,
            entity=entity or None,
            project=project,
            job_type="report",
            reinit="create_new",
            mode="offline" if here else None,
            settings=wandb.Settings(**wandb_settings.settings()),
        )
        columns = list(table[0]) if table else []
        cells = [[row[name] for name in columns] for row in table]
        run.log(
            {
                "report/table": wandb.Table(columns=[*columns], data=cells),
                **{f"report/{k}": wandb.Image(str(v)) for k, v in images.items()},
                "report/page": wandb.Html(page.read_text(), inject=False),
            }
        )
        stays_here = run.offline
        run.finish()
    except Exception as error:
        raise RecordError(f"the report was not logged to W&B: {error}") from error
    if stays_here:
        print("W&B is offline; to upload the report:")
        print(f"wandb sync {shlex.quote(run.sync_dir)}", flush=True)
