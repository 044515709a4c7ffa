"""What pre-training on Fashion-MNIST gains with few digits: the table of transfer.md.

    python benchmarks/transfer.py FOLDER          then docs/transfer.md
    python benchmarks/transfer.py FOLDER 100 300  these numbers of labels, only printed

FOLDER/fashion is a finished `experiment=fashion_cnn`; both frameworks start from its
weights. Each fine-tuning has a run folder in FOLDER, and is not run again if that is
finished and of the same recipe; those of a framework are trained in one process. A gain
is between runs of one seed, which differ in the weights that they start from and in
what is frozen; the interval is Student's, over seeds. The examples are the same for all
seeds.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from io import StringIO
from itertools import product
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p).resolve() != ROOT)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from recipe.config import Config, recipe_hash, to_config  # noqa: E402
from recipe.errors import RecordError  # noqa: E402
from record.run import FINAL, read_summary  # noqa: E402
from report.analysis.intervals import half_width  # noqa: E402
from runtime.heartbeat import Heartbeat  # noqa: E402
from runtime.processes import Processes  # noqa: E402
from runtime.signals import Stopping  # noqa: E402

PAGE = ROOT / "docs" / "transfer.md"
MARK = "<!-- measured: everything below is written by benchmarks/transfer.py -->\n"
FRAMEWORKS, LABELS, SEEDS = ("torch", "jax"), (100, 300, 1000), range(5, 10)
STARTS = {
    "random": ["model.weights=null", "model.head=null", "train.freeze=[]"],
    "fashion": ["model.weights={file}"],
}


def main(folder: Path, labels: Sequence[int]) -> None:
    for count, framework in product(labels or LABELS, FRAMEWORKS):
        command = [sys.executable, __file__, folder, "--train", framework, str(count)]
        subprocess.run(command, check=True)
    rows = [
        "| labels | framework | random weights | pre-trained | gain in points |",
        "|---|---|---|---|---|",
        *(row(folder, *of) for of in product(labels or LABELS, FRAMEWORKS)),
    ]
    print(*rows, sep="\n")
    if not labels:
        before, mark, _ = PAGE.read_text().partition(MARK)
        PAGE.write_text(f"{before}{mark}\n{chr(10).join(rows)}\n")
        print(f"written: {PAGE.relative_to(ROOT)}")


def row(folder: Path, count: int, framework: str) -> str:
    """A line of the table."""
    found = [accuracy(run) for run, _ in trainings(folder, framework, count)]
    random, fashion = 100 * np.array(found, float).reshape(-1, 2).T
    gains = fashion - random
    variance = np.array([gains.var(ddof=1) / len(gains)])
    mean, wide = gains.mean(), float(half_width(variance, [len(gains) - 1]))
    return (
        f"| {count:,} | {framework} | {random.mean():.1f} % | {fashion.mean():.1f} % | "
        f"{mean:+.1f} ({mean - wide:+.1f} to {mean + wide:+.1f}) |"
    )


def trainings(
    folder: Path, framework: str, count: int
) -> Iterator[tuple[Path, list[str]]]:
    """Run folder and overrides of each, the two of a seed one after the other."""
    for seed, start in product(SEEDS, STARTS):
        run = folder / f"{framework}-{count}-{start}-{seed}"
        typed = [key.format(file=folder / "fashion" / FINAL) for key in STARTS[start]]
        typed += [f"data.train_examples={count}", f"train.seed={seed}"]
        yield run, ["experiment=digits_from_fashion", *typed, f"run.dir={run}"]


def is_done(run: Path, config: Config) -> bool:
    """Whether a finished run of this recipe is there.

    Raises:
      RecordError: if one of another recipe is.
    """
    if accuracy(run) is None:
        return False
    if read_summary(run)["config_hash"] != recipe_hash(config):
        raise RecordError(
            f"{run} is a finished run of another recipe than is measured now; give "
            "another FOLDER, or delete it"
        )
    return True


def accuracy(run: Path) -> float | None:
    """The test accuracy of a run; None if there is no finished one."""
    with contextlib.suppress(RecordError):
        summary = read_summary(run)
        return summary["test"]["accuracy"] if summary["status"] == "finished" else None
    return None


def train(folder: Path, framework: str, count: int) -> None:
    """The trainings of a framework that are not done yet, in this process."""
    run = import_module(f"{framework}_impl.train").run
    ConfigStore.instance().store("schema", node=Config)
    for place, typed in trainings(folder, framework, count):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = to_config(compose("config", typed))
        if is_done(place, config):
            continue
        with (
            Heartbeat(Processes(), config.parallel) as heartbeat,
            Stopping() as stopping,
            contextlib.redirect_stdout(StringIO()),
        ):
            run(config, Processes(), stopping, heartbeat)
        print(f"{place.name}: {accuracy(place):.4f}", flush=True)


if __name__ == "__main__":
    given = Path(sys.argv[1]).resolve()
    if sys.argv[2:3] == ["--train"]:
        train(given, sys.argv[3], int(sys.argv[4]))
    else:
        main(given, [int(count) for count in sys.argv[2:]])
