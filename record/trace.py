"""One training step, layer by layer: every module's output, and the gradients.

`trace-<step>.safetensors` in the run folder holds it under canonical names in canonical
layouts: images and features are NHWC, whichever framework wrote them.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from recipe.errors import RecordError
from recipe.weights import Weights

Arrays = dict[str, np.ndarray]
SECTIONS = ("weights", "outputs", "output_gradients", "gradients")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One step of one framework.

    Args:
      step: from 1.
      weights: before the step's update.
      outputs: "input" and "labels" (the batch), every module's by its name, in the
        order of computation, and "loss". A module's second call is "a#2".
      output_gradients: of the loss with respect to the modules' outputs.
      gradients: of the loss with respect to the weights, before clipping and decay.
      kinds: module -> its class's name.
    """

    step: int
    weights: Weights
    outputs: Arrays
    output_gradients: Arrays
    gradients: Weights
    kinds: dict[str, str]


def numbered(name: str, seen: Collection[str]) -> str:
    """The name of a module's call; repeated calls are numbered.

    >>> numbered("norm", {"norm": 1, "norm#2": 2})
    'norm#3'
    """
    call, result = 1, name
    while result in seen:
        call += 1
        result = f"{name}#{call}"
    return result


def trace_file(folder: Path, step: int) -> Path:
    """The path of a step's trace in a run folder."""
    return folder / f"trace-{step}.safetensors"


def to_bytes(trace: Trace) -> bytes:
    """A safetensors file; order and kinds, which it cannot hold, are metadata."""
    arrays = {
        f"{section}/{name}": np.ascontiguousarray(array)
        for section in SECTIONS
        for name, array in getattr(trace, section).items()
    }
    order = {section: list(getattr(trace, section)) for section in SECTIONS}
    notes = {"step": trace.step, "order": order, "kinds": trace.kinds}
    return safetensors.numpy.save(arrays, {"duet": json.dumps(notes)})


def read_trace(folder: Path, step: int) -> Trace:
    """The inverse of `to_bytes`.

    Raises:
      RecordError: if it is missing or cannot be read.
    """
    file = trace_file(folder, step)
    try:
        with safe_open(file, framework="numpy") as stored:
            notes = json.loads(stored.metadata()["duet"])
            sections = {
                section: {n: stored.get_tensor(f"{section}/{n}") for n in names}
                for section, names in notes["order"].items()
            }
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{file} cannot be read as a trace: {error}") from error
    return Trace(step=notes["step"], kinds=notes["kinds"], **sections)
