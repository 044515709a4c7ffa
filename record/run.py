"""Reads a finished run's folder; every field is checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from recipe.config import Config, from_yaml, recipe_hash
from recipe.errors import ConfigError, RecordError
from recipe.weights import Weights
from record.disk import checked_object, parse_json, read_text
from record.schema import (
    ENVIRONMENT,
    GPU,
    GPUS,
    READABLE,
    ROWS,
    SUMMARY,
    TEST,
    Field,
    check_fields,
)

# The weights that were evaluated; if those are an average, also those after the last
# step.
FINAL, LAST = "final.safetensors", "last.safetensors"
AVERAGE = "average of "  # before the name of each averaged leaf


@dataclass(frozen=True)
class Run:
    """A finished run's record, as `read_run` returns it.

    Args:
      weights: after the last step; and their average, if there is one, under "average
        of" and a leaf's name.
    """

    path: Path
    config: Config
    environment: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    weights: Weights

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl` of one kind: step, window or evaluation."""
        return [row for row in self.rows if row["kind"] == kind]


def averaged(name: str) -> bool:
    """Whether a name in `Run.weights` is of the average."""
    return name.startswith(AVERAGE)


def check_run_folder(key: str, path: Path) -> None:
    """Refuse a folder that is given as a run's and is none.

    Args:
      key: that was given, for the message.

    Raises:
      RecordError: saying what is expected.
    """
    if not (path / "config.yaml").is_file():
        lacks = "is not a run folder: no config.yaml"
        what = lacks if path.is_dir() else "is not a folder"
        raise RecordError(
            f"{key}={path} {what}; give the run folder that a training printed at its "
            "end, such as runs/digits_mlp-jax-20260314-150926"
        )


def read_finished(key: str, path: Path) -> Run:
    """The run that a user names by its folder.

    Args:
      key: that was given, for messages.

    Raises:
      RecordError: if it is none, did not finish, or as `read_run` does.
    """
    check_run_folder(key, path)
    if not (path / "summary.json").is_file():
        raise RecordError(
            f"{key}={path} still runs or was killed: it has no summary.json; wait for "
            f"it, or continue it with run.dir={path}"
        )
    return read_run(path)


def read_run(path: Path) -> Run:
    """Read a whole run folder, checked against the schema.

    Raises:
      RecordError: naming the file, line and field that is missing or wrong.
    """
    summary = read_summary(path)
    if summary["status"] != "finished":
        raise RecordError(
            f"{path} holds a run that {summary['status']}: {summary['error']}"
        )
    try:
        config = from_yaml(read_text(path / "config.yaml"))
    except ConfigError as error:
        raise RecordError(f"{path / 'config.yaml'}: {error}") from error
    if recipe_hash(config) != summary["config_hash"]:
        raise RecordError(
            f"{path / 'config.yaml'} is not the config that summary.json was written "
            "for: their hashes differ"
        )
    environment = read_environment(path)
    weights = read_weights(path / FINAL)
    if config.optim.ema_decay is not None:
        averages = {f"{AVERAGE}{name}": array for name, array in weights.items()}
        weights = read_weights(path / LAST) | averages
    rows = read_all_rows(path, summary["steps"])
    return Run(path, config, environment, summary, rows, weights)


def read_weights(file: Path) -> Weights:
    """The arrays of a run folder's .safetensors file.

    Raises:
      RecordError: if it cannot be read.
    """
    try:
        return safetensors.numpy.load_file(file)
    except (SafetensorError, OSError) as error:
        raise RecordError(f"{file}: {error}") from error


def read_all_rows(path: Path, steps: int) -> list[dict[str, Any]]:
    """The rows of a run's steps, none of them missing."""
    rows = read_rows(path)
    found = [row["step"] for row in rows if row["kind"] == "step"]
    if found != list(range(1, steps + 1)):
        raise RecordError(
            f"{path / 'metrics.jsonl'} does not hold steps 1 to {steps} once each and "
            f"in order; it has {len(found)}"
        )
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a run folder's `metrics.jsonl`, floats as floats again."""
    rows = []
    lines = read_text(path / "metrics.jsonl").splitlines()
    for number, line in enumerate(lines, start=1):
        where = f"{path / 'metrics.jsonl'} line {number}"
        row = parse_json(line, where)
        kind = row.get("kind") if isinstance(row, dict) else None
        if not isinstance(kind, str) or kind not in ROWS:
            raise RecordError(f"{where} is of unknown kind ({', '.join(ROWS)})")
        rows.append(checked_object(row, ROWS[kind], where))
    return rows


def read_summary(path: Path) -> dict[str, Any]:
    """A run folder's `summary.json`, checked against the schema."""
    summary = _read_json(path / "summary.json", SUMMARY)
    if summary["test"] is not None:
        check_fields(summary["test"], TEST, f"{path / 'summary.json'}, test")
    if summary["schema_version"] not in READABLE:
        raise RecordError(
            f"{path / 'summary.json'} has schema {summary['schema_version']}; "
            f"this version of Duet reads {READABLE[0]} to {READABLE[-1]}"
        )
    return summary


def read_environment(path: Path) -> dict[str, Any]:
    """A run folder's `environment.json`, checked against the schema."""
    file = path / "environment.json"
    environment = _read_json(file, ENVIRONMENT)
    if environment["gpus"] is not None:
        machine = checked_object(environment["gpus"], GPUS, f"{file}, gpus")
        for gpu in machine["gpus"]:
            checked_object(gpu, GPU, f"{file}, a GPU")
        if any(type(row) is not list for row in machine["links"]):
            raise RecordError(f"{file}, gpus: links holds no rows")
    return environment


def _read_json(file: Path, table: dict[str, Field]) -> dict[str, Any]:
    return checked_object(parse_json(read_text(file), file), table, str(file))
