"""How devices are joined: known machines, and what timed all-reduces say of others."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import scipy.optimize
import yaml
from jaxtyping import Float

from recipe.errors import ConfigError, RecordError
from record.disk import parse_json, read_text
from record.gpus import NVLINK


@dataclass(frozen=True)
class Link:
    """Seconds per message, and bytes/s of one direction."""

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Interconnect:
    """How devices are joined.

    Args:
      devices_per_node: g.
      inside: between neighbours in a node.
      between: between nodes; the bandwidth of all of a node's network cards together,
        as a ring through g devices uses each.
      source: of the numbers.
      device: regular expression of the devices that such a machine is sold with.
    """

    name: str
    devices_per_node: int
    inside: Link
    between: Link
    source: str
    device: str = field(default="", repr=False)


def _known() -> dict[str, Interconnect]:
    """The machines of `interconnects.yaml` by name, each with its source."""
    rows = yaml.safe_load(read_text(Path(__file__).with_suffix(".yaml")))
    for row in rows.values():
        row |= {end: Link(**row[end]) for end in ("inside", "between")}
    return {name: Interconnect(**row) for name, row in rows.items()}


INTERCONNECTS = _known()


def measured_interconnect(
    nbytes: Float[np.ndarray, " sizes"],
    seconds: Float[np.ndarray, " sizes"],
    devices: int,
    name: str = "measured",
) -> Interconnect:
    """Latency and bandwidth from timed all-reduces of several sizes, by a ring's model.

    Args:
      nbytes: of each all-reduce.
      seconds: it took, on the slowest rank.
      devices: that took part.

    Raises:
      ConfigError: if there are too few sizes to tell latency from bandwidth, or one
        is not a number of bytes or seconds.
    """
    sizes, times = np.asarray(nbytes, np.float64), np.asarray(seconds, np.float64)
    numbers = np.concatenate([sizes, times])
    if not np.all(np.isfinite(numbers) & (numbers > 0)):
        raise ConfigError("sizes and seconds of all-reduces must be finite and > 0")
    if len(np.unique(sizes)) < 2 or devices < 2:
        raise ConfigError(
            "an interconnect is measured by all-reduces of two sizes or more on two "
            f"devices or more; got {len(np.unique(sizes))} sizes on {devices} devices"
        )
    steps = 2 * (devices - 1)
    terms = np.stack([np.full_like(sizes, steps), steps / devices * sizes], axis=1)
    # Relative errors, or the largest size alone would be fitted; neither is negative.
    (latency, inverse), _ = scipy.optimize.nnls(
        terms / times[:, None], np.ones_like(times)
    )
    link = Link(float(latency), float(1 / inverse) if inverse > 0 else math.inf)
    source = f"{len(sizes)} all-reduces timed on {devices} devices"
    return Interconnect(name, devices, link, link, source)


def assumed_interconnect(
    device: str, links: Sequence[Sequence[str | None]] = ()
) -> Interconnect | None:
    """The machine that such a device is sold in; None if its name does not say.

    Args:
      links: how the machine's GPUs are joined, as `environment.json` has them; without
        NVLink it is not that machine.

    >>> assumed_interconnect("NVIDIA A100-SXM4-80GB").name
    "DGX A100, 8 A100, 8 x HDR InfiniBand (assumed from the device's name)"
    """
    joined = {link for row in links for link in row if link is not None}
    if "MIG" in device.split() or (joined and NVLINK not in joined):
        return None
    for net in INTERCONNECTS.values():
        if re.search(net.device, device):
            return replace(net, name=f"{net.name} (assumed from the device's name)")
    return None


def read_interconnect(given: str) -> Interconnect:
    """A machine of `INTERCONNECTS` by name, or one measured by a file of all-reduces.

    The file is JSON: `devices`, `nbytes` and `seconds` (a list each, of one length),
    `name` and `source` in words; `benchmarks/all_reduce.py` writes it.

    Raises:
      ConfigError, RecordError: saying what is allowed.
    """
    if given in INTERCONNECTS:
        return INTERCONNECTS[given]
    file = Path(given)
    if not file.is_file():
        raise ConfigError(
            f"--interconnect {given} is neither a machine nor a file; give one of: "
            f"{', '.join(INTERCONNECTS)}, or a file of benchmarks/all_reduce.py"
        )
    held = parse_json(read_text(file), file)
    try:
        sizes, seconds = (np.array(held[k], float) for k in ("nbytes", "seconds"))
        if sizes.shape != seconds.shape or sizes.ndim != 1:
            raise ValueError("nbytes and seconds are not of one length")
        devices, name = int(held["devices"]), str(held["name"])
        source = str(held["source"])
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"{file} holds no timed all-reduces: {error!r}") from error
    found = measured_interconnect(sizes, seconds, devices, name)
    return replace(found, source=f"{found.source}, {source}")
