"""The parts of `make gpu` in order of value, each with its time limit."""

from collections.abc import Sequence
from dataclasses import dataclass

from recipe.errors import ConfigError

REHEARSAL = "DUET_GPU_REHEARSAL"  # set to 1: every part on a CPU, in tiny shapes
LEAST_SECONDS = 10.0  # with less time left a part is not started


@dataclass(frozen=True)
class Part:
    """One process of `make gpu`; `benchmarks/gpu/part.py` has what it does.

    Args:
      name: on the command line, and of its files.
      title: for the summary.
      seconds: its limit.
    """

    name: str
    title: str
    seconds: float


# The limits add up to more than the half hour of a lent machine: they bound a part that
# hangs, and what one does not use is left to those after it.
PLAN = (
    Part("start", "versions, devices, one convolution in each framework", 150),
    Part("group", "groups of one process through torchrun; masked GPUs", 240),
    Part("loops", "no loop in the optimised HLO of the compiled step", 120),
    Part("parity", "parity of ResNet-9 by precision; TF32 on only in tf32", 540),
    Part("bits", "deterministic runs, twice: equal in every bit", 150),
    Part("resume", "stopped twice and resumed: equal in every bit", 240),
    Part("speed", "ResNet-18 and ResNet-50 in bf16", 600),
    Part("heartbeat", "the heartbeat of a rank that waits for its device", 150),
    Part("tests", "pytest -m gpu", 240),
)


def chosen(only: Sequence[str], plan: Sequence[Part] = PLAN) -> list[Part]:
    """The named parts, in order of the plan; all if none is named.

    Raises:
      ConfigError: for a part that does not exist.
    """
    names = [part.name for part in plan]
    if unknown := sorted(set(only) - set(names)):
        raise ConfigError(
            f"--only: {', '.join(unknown)} is unknown; parts: {', '.join(names)}"
        )
    return [part for part in plan if part.name in (only or names)]


def allowed_seconds(part: Part, left: float) -> float:
    """The limit of a part that starts now; 0 if it is not to start.

    Args:
      left: seconds until all parts have to be done.
    """
    return min(part.seconds, left) if left >= LEAST_SECONDS else 0
