"""Studies as they lie on a disk, made by hand: every figure in them is chosen."""

import json
import shutil
from pathlib import Path

from recipe.config import from_yaml, recipe_hash
from report.parity.verdict import Comparison, Verdict

STEPS = 4  # of the run folder that all others are copied from


def write_run_folder(
    written: Path,
    folder: Path,
    rate: float,
    accuracy: float = 0.75,
    without: str | None = None,
    **summary,
) -> Path:
    """A copy of a run folder in which the speed, and whatever is given, is another.

    Args:
      without: key of what its steps are without: "parallel.grad_sync", "optim.update".
    """
    shutil.copytree(written, folder)
    if without is not None:
        config = folder / "config.yaml"
        name = without.partition(".")[2]
        text = config.read_text().replace(f"  {name}: true\n", f"  {name}: false\n")
        config.write_text(text)
        summary |= {
            "config_hash": recipe_hash(from_yaml(text)),
            "ablated": [without],
        }
    world = summary.setdefault("world_size", 1)
    fields = {
        "processes": world,
        "global_batch_size": 8,
        "framework": "torch",
        **summary,
    }
    fields.setdefault("compiled", fields["framework"] == "jax")
    fields["images_per_second"] = {"median": rate, "windows": [rate]}
    change(folder / "summary.json", **fields)
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    changed = {
        "window": {
            "images_per_second": rate,
            "seconds": 16 / rate,
            "rank_seconds": [16 / rate / (1 + r / 50) for r in range(world)],
            "data_seconds": 0.1 * 16 / rate,
        },
        "evaluation": {"accuracy": accuracy},
    }
    lines = [json.dumps(row | changed.get(row["kind"], {})) for row in rows]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def change(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def write_check(
    written: Path,
    folder: Path,
    broken: tuple[str, ...] = (),
    unseen: tuple[str, ...] = (),
) -> Path:
    """A parity check of what `write_run_folder` writes, and two of its runs."""
    held = json.loads((written / "summary.json").read_text())
    for framework in ("torch", "jax"):
        write_run_folder(written, folder / f"{framework}-1", 100.0, framework=framework)
    comparison = Comparison(
        *("jax ×1", "torch ×1", "frameworks"),
        differences=[1e-8] * STEPS,
        allowed=[1e-6] * STEPS,
        leaves={"dense.0.kernel": 2e-8},
        leaves_allowed={"dense.0.kernel": 1e-6},
        test_difference=0.0,
        scores=(0.75, 0.75),
        broken=list(broken),
        unseen=list(unseen),
    )
    verdict = Verdict(
        experiment=held["experiment"],
        precision=held["precision"],
        config_hash=held["config_hash"],
        data_fingerprint=held["data_fingerprint"],
        comparisons=[comparison],
        control=None,
    )
    (folder / "parity.json").write_text(json.dumps(verdict.to_json()))
    return folder


def write_study(
    written: Path,
    folder: Path,
    sizes: tuple[int, ...] = (1, 2, 4),
    repeats: int = 3,
    faster: float = 2.0,
    broken: tuple[str, ...] = (),
    unseen: tuple[str, ...] = (),
) -> Path:
    """A strong curve of each framework, JAX `faster` times as fast, and its check.

    A tenth of a step is the optimizer, a fifth of several devices' communication.
    """
    order = []
    for size in sizes:
        for framework in ("torch", "jax"):
            for repeat in range(1, repeats + 1):
                rate = 100 * size**0.9 * (1 + repeat / 1000)
                rate *= faster if framework == "jax" else 1
                fields = {"framework": framework, "world_size": size}
                ablations = [("", None, 1.0), ("frozen-", "optim.update", 0.9)]
                if size > 1:
                    ablations.append(("alone-", "parallel.grad_sync", 0.8))
                for prefix, without, fraction in ablations:
                    name = f"{framework}-{size}-fp32-dp-{prefix}{repeat}"
                    timed = rate / fraction
                    write_run_folder(
                        written, folder / name, timed, without=without, **fields
                    )
                    order.append({"name": name})
    plan = {
        "name": "by hand",
        "command": ["launch/study.py", "study=demo"],
        "order": order,
        "order_seed": 7,
    }
    (folder / "study.json").write_text(json.dumps(plan))
    write_check(written, folder / "parity-fp32", broken, unseen)
    return folder
