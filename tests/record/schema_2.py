"""Run folders as the second schema had them, with the old names of keys."""

import json
from pathlib import Path
from typing import Any

from tests.record.checkpoints import vouch

# Current name -> old name.
NAMES = {
    "global_batch_size": "global_batch",
    "grad_accum_steps": "accumulate",
    "log_every_steps": "window_steps",
    "perturb_seed": "nudge",
    "grad_sync": "exchange",
    "pct_start": "rise_fraction",
    "initial_factor": "start_factor",
    "gamma": "drop_factor",
}


def as_schema_2(folder: Path) -> Path:
    """A run folder and its checkpoints with the old names."""
    config = folder / "config.yaml"
    text = config.read_text()
    for new, old in NAMES.items():
        assert text.count(f"  {new}: ") == 1
        text = text.replace(f"  {new}: ", f"  {old}: ")
    config.write_text(text)
    summary = folder / "summary.json"
    if summary.exists():
        held = json.loads(summary.read_text()) | {"schema_version": 2}
        summary.write_text(json.dumps(with_old_names(held)))
    for manifest in folder.glob("checkpoints/*/manifest.json"):
        held = json.loads(manifest.read_text()) | {"schema_version": 1}
        held["recipe"] = with_old_keys(held["recipe"])
        vouch(manifest.parent, held)
    return folder


def with_old_names(given: dict[str, Any]) -> dict[str, Any]:
    """A flat object with old names."""
    return {NAMES.get(name, name): value for name, value in given.items()}


def with_old_keys(config: dict[str, Any]) -> dict[str, Any]:
    """A config, nested by group, with old names."""
    return {
        group: with_old_names(part) if isinstance(part, dict) else part
        for group, part in config.items()
    }
