"""Time and memory of a report's rows over many run folders.

    python benchmarks/report_rows.py [FOLDERS]

Writes that many small run folders (10,000) to a temporary folder, reads them, and makes
the table; exits with 1 if that takes 30 s or 2 GB.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from record.environment import describe_environment, peak_resident_bytes  # noqa: E402
from record.schema import SCHEMA_VERSION, SUMMARY  # noqa: E402
from report.analysis.runs import find, read_timed_runs  # noqa: E402
from report.analysis.scaling import scaling  # noqa: E402
from report.page.points import rows  # noqa: E402

SECONDS, GIBIBYTES = 30, 2
SIZES, REPEATS, WINDOWS, STEPS = (1, 2, 4, 8, 16), 5, 50, 100


def write_folders(root: Path, count: int) -> None:
    """Studies of both frameworks: strong curves, five repeats per configuration."""
    environment = json.dumps(describe_environment("torch", ["An Accelerator 0"]))
    step = {"kind": "step", "step": STEPS, "epoch": 1, "loss": 0.1}
    for number in range(count):
        configuration, repeat = divmod(number, REPEATS)
        curve, size = configuration // len(SIZES), SIZES[configuration % len(SIZES)]
        windows = [1000.0 * size + repeat + w / 1000 + number for w in range(WINDOWS)]
        summary = {
            "schema_version": SCHEMA_VERSION,
            "status": "finished",
            "error": None,
            "framework": ("torch", "jax")[curve % 2],
            "experiment": f"experiment-{curve // 2}",
            "data": "synthetic",
            "model": "cnn",
            "parallel": "dp",
            "precision": "fp32",
            "deterministic": False,
            "compiled": bool(curve % 2),
            "ablated": [],
            "resumed_anyway": [],
            "new_head": [],
            "world_size": size,
            "processes": size,
            "global_batch_size": 512,
            "parameters": 1_000_000,
            "steps": STEPS,
            "skipped_steps": 0,
            "images_per_second": {"median": windows[WINDOWS // 2], "windows": windows},
            "compile_seconds": 1.0,
            "compile_cached": False,
            "startup_seconds": 1.0,
            "test": None,
            "peak_memory_bytes": 2**30,
            "data_fingerprint": "d" * 64,
            "config_hash": f"{curve // 2:064d}",
            "run_dir": "elsewhere",
        }
        assert summary.keys() == SUMMARY.keys(), summary.keys() ^ SUMMARY.keys()
        folder = root / f"{number:06d}"
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "environment.json").write_text(environment)
        (folder / "config.yaml").write_text("train:\n  perturb_seed: 0\n")
        (folder / "metrics.jsonl").write_text((json.dumps(step) + "\n") * STEPS)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        write_folders(Path(name), count)
        started = time.perf_counter()
        runs, left_out = read_timed_runs(find([Path(name)]).runs)
        read = time.perf_counter() - started
        table = rows(scaling(runs))
        seconds = time.perf_counter() - started
    assert len(runs) == count and not left_out, left_out[:3]
    memory = peak_resident_bytes() / 2**30
    print(
        f"{count} run folders -> {len(table)} rows in {seconds:.1f} s "
        f"({read:.1f} s of reading), peak {memory:.2f} GiB"
    )
    return int(seconds >= SECONDS or memory >= GIBIBYTES)


if __name__ == "__main__":
    sys.exit(main())
