"""What pre-training on Fashion-MNIST gains with few digits: the table of transfer.md.

    python benchmarks/transfer.py FOLDER          then docs/transfer.md
    python benchmarks/transfer.py FOLDER 100 300  these numbers of labels, only printed

FOLDER/fashion is a finished `experiment=fashion_cnn`, or is trained here in JAX; both
frameworks start from its weights. Each fine-tuning is a process with a run folder in
FOLDER, and is not run again if that is finished. A gain is between runs of one seed,
which differ in nothing but the weights they start from; the interval is Student's, over
the seeds. The examples are the same for all seeds.
"""

import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p).resolve() != ROOT)]

from recipe.errors import RecordError  # noqa: E402
from record.run import FINAL, read_summary  # noqa: E402
from report.analysis.intervals import half_width  # noqa: E402

PAGE = ROOT / "docs" / "transfer.md"
MARK = "<!-- measured: everything below is written by benchmarks/transfer.py -->\n"
LABELS, SEEDS = (100, 300, 1000), range(5)
SCRIPTS = {"torch": "launch/pytorch.py", "jax": "launch/jax.py"}
RANDOM = ["model.weights=null", "model.head=null"]


def main(folder: Path, *labels: int) -> None:
    file = folder / "fashion" / FINAL
    accuracy(folder / "fashion", "jax", ["experiment=fashion_cnn"])
    rows = list(table(folder, file, labels or LABELS))
    print(*rows, sep="\n")
    if not labels:
        before, mark, _ = PAGE.read_text().partition(MARK)
        PAGE.write_text(f"{before}{mark}\n{chr(10).join(rows)}\n")
        print(f"written: {PAGE.relative_to(ROOT)}")


def table(folder: Path, file: Path, labels: tuple[int, ...]) -> Iterator[str]:
    """The lines of the table, as the runs of each are done."""
    yield "| labels | framework | random weights | pre-trained | gain in points |"
    yield "|---|---|---|---|---|"
    for count, framework in product(labels, SCRIPTS):
        found = []
        for seed, start in product(SEEDS, ("random", "fashion")):
            typed = ["experiment=digits_from_fashion", f"data.train_examples={count}"]
            typed += RANDOM if start == "random" else [f"model.weights={file}"]
            run = folder / f"{framework}-{count}-{start}-{seed}"
            found.append(accuracy(run, framework, [*typed, f"train.seed={seed}"]))
        random, fashion = np.array(found).reshape(-1, 2).T * 100
        gains = fashion - random
        wide = half_width(np.array([gains.var(ddof=1) / len(gains)]), [len(gains) - 1])
        yield (
            f"| {count:,} | {framework} | {random.mean():.1f} % | {fashion.mean():.1f} "
            f"% | {gains.mean():.1f} ({gains.mean() - wide:.1f} to "
            f"{gains.mean() + wide:.1f}) |"
        )


def accuracy(run: Path, framework: str, typed: list[str]) -> float:
    """The test accuracy of a run, which is trained unless it is finished."""
    try:
        if read_summary(run)["status"] == "finished":
            return read_summary(run)["test"]["accuracy"]
    except RecordError:
        pass  # there is none yet
    command = [sys.executable, SCRIPTS[framework], *typed, f"run.dir={run}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return read_summary(run)["test"]["accuracy"]


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:]))
