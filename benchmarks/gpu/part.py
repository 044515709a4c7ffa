"""One part of `make gpu`, as the process that `benchmarks/gpu/run.py` starts.

python -m benchmarks.gpu.part NAME FOLDER
"""

import os
import sys
from pathlib import Path

from benchmarks.gpu import equality, machine, speed
from benchmarks.gpu.checks import Checks
from benchmarks.gpu.plan import REHEARSAL

PARTS = {
    "start": machine.start,
    "group": machine.group,
    "loops": speed.loops,
    "parity": equality.parity,
    "bits": equality.bits,
    "resume": equality.resume,
    "speed": speed.speed,
    "heartbeat": machine.heartbeat,
    "tests": machine.tests,
}


def main(name: str, folder: Path) -> int:
    checks = Checks(name, folder, os.environ.get(REHEARSAL) == "1")
    PARTS[name](checks)
    return int(checks.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
