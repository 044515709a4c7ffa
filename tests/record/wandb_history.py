"""Reads `.wandb` files back: wandb ships the records' schema, not a reader in Python.

The framing is LevelDB's log: after seven bytes of header, blocks of 32 KiB, in them
fragments of checksum (4 bytes), length (2), type (1: whole, 2: first, 3: middle,
4: last) and data.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
KINDS = {
    "train": "step",
    "window": "window",
    "round": "round",
    "test": "evaluation",
}


def records(path: Path) -> Iterator[Any]:
    """Every protobuf `Record` of one `.wandb` file, in the order written."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    assert content[:4] == b":W&B", f"{path} is not a .wandb file"
    position, whole = HEADER, b""
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:  # no fragment starts in a block's tail
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        whole += content[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb_file(run_dir: Path) -> Path:
    """The one `.wandb` file of a run folder."""
    (path,) = run_dir.glob("wandb/*run-*/*.wandb")
    return path


def read_history(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, as a run folder's `.wandb` file has them."""
    return [
        as_row(
            {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
        )
        for record in records(wandb_file(run_dir))
        if record.WhichOneof("record_type") == "history"
    ]


def as_row(logged: dict[str, Any]) -> dict[str, Any]:
    """A row of `metrics.jsonl` from what was logged of it."""
    row: dict[str, Any] = {}
    for key, value in logged.items():
        if key.startswith("_"):
            continue  # wandb's own: _step, _timestamp, _runtime
        namespace, _, name = key.rpartition("/")
        row[name] = value
        if namespace:
            row["kind"] = KINDS[namespace]
    return row


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The summary as last written, nested keys joined by dots."""
    summary = {}
    for record in records(wandb_file(run_dir)):
        for item in record.summary.update:
            key = item.key or ".".join(item.nested_key)
            summary[key] = json.loads(item.value_json)
    return summary


def read_run(run_dir: Path) -> tuple[Any, dict[str, Any]]:
    """The `RunRecord` (id, name, group, job type, tags) and its config."""
    (run,) = [r.run for r in records(wandb_file(run_dir)) if r.HasField("run")]
    return run, {item.key: json.loads(item.value_json) for item in run.config.update}
