"""Measured compute + a model of the interconnect -> more devices than there are.

    n   devices, on n / g nodes of g devices each
    m   bytes of all parameters, and so of all gradients
    a   latency of a link in seconds; B its bandwidth in bytes/s

A step takes its computation, and of the exchange whatever does not hide behind the
backward pass. This is a model, to be drawn dashed: it knows of no data loading, no
host, no straggler and no congestion, so it is an upper bound. `docs/scaling.md` states
how far it is from published tables.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.optimize
from jaxtyping import Float

from recipe.errors import ConfigError, RecordError
from record.disk import parse_json, read_text
from record.gpus import NVLINK
from report.analysis.intervals import Estimate
from report.analysis.laws import (
    AMDAHL,
    GUSTAFSON,
    Fit,
    amdahl_speedup,
    gustafson_speedup,
)
from report.analysis.scaling import through

# Of a step's computation: two of its three products are backward's, and the exchange
# of a layer's gradient begins when backward is past it.
BACKWARD = 2 / 3
# Of published tables the model is off by +3 to +19 % (docs/scaling.md). Where it is off
# by far more, a curve is held back by what the model knows nothing of.
TRUSTED = 0.5
# DDP hands gradients to the exchange in buckets of 25 MiB (torch.nn.parallel.
# DistributedDataParallel, bucket_cap_mb); the last one has nothing left to hide behind.
BUCKET_BYTES = 25 * 2**20


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
    """

    name: str
    devices_per_node: int
    inside: Link
    between: Link
    source: str


# Latencies are NCCL's own model of a step of a ring (src/graph/tuning.cc, hwLat, Ring
# and Simple): 3.4 us over NVLink, 9.6 us over a network.
_NVLINK, _NETWORK = 3.4e-6, 9.6e-6
_NCCL = "latencies from NCCL's src/graph/tuning.cc"
INTERCONNECTS = {
    "dgx-1-v100": Interconnect(
        "DGX-1, 8 V100, 4 x EDR InfiniBand",
        8,
        Link(_NVLINK, 150e9),
        Link(_NETWORK, 50e9),
        "NVIDIA DGX-1 data sheet (6 NVLinks of 25 GB/s, 4 x 100 Gb/s, nominal); "
        + _NCCL,
    ),
    "dgx-a100": Interconnect(
        "DGX A100, 8 A100, 8 x HDR InfiniBand",
        8,
        Link(_NVLINK, 235e9),
        Link(_NETWORK, 200e9),
        "235 GB/s is the cap that NCCL's tuning.cc sets for compute capability 8.0; "
        "NVIDIA DGX A100 data sheet (8 x 200 Gb/s, nominal); " + _NCCL,
    ),
    **{
        f"dgx-{chip.lower()}": Interconnect(
            f"DGX {chip}, 8 {chip}, 8 x NDR InfiniBand",
            8,
            Link(_NVLINK, 450e9),
            Link(_NETWORK, 400e9),
            f"NVIDIA DGX {chip} data sheet (18 NVLinks of 25 GB/s, 8 x 400 Gb/s, "
            f"nominal); {_NCCL}",
        )
        for chip in ("H100", "H200")
    },
}
# What a device's name tells of the machine around it. PCIe cards (A100-PCIE, H100 PCIe,
# H100 NVL) are in machines of every kind, and have no NVLink to more than one other.
SOCKETED = {
    r"\bV100-SXM2": "dgx-1-v100",
    r"\bA100-SXM": "dgx-a100",
    r"\bH100\b(?! NVL).*(HBM3|SXM)": "dgx-h100",
    r"\bH200\b(?! NVL)": "dgx-h200",
}


@dataclass(frozen=True)
class Exchange:
    """What a step exchanges: collectives over all parameters' bytes.

    Args:
      forward: what forward waits for, and hides behind it.
      backward: what hides behind backward.
    """

    forward: tuple[str, ...]
    backward: tuple[str, ...]


# As `tests/twins/test_wiring.py` reads them from JAX's compiled step, and from what
# PyTorch hands to its process group. FSDP2 frees a block after forward and gathers it
# again for backward; JAX keeps what it gathered.
REPLICATED = Exchange((), ("all-reduce",))
SHARDED = {
    "torch": Exchange(("all-gather",), ("all-gather", "reduce-scatter")),
    "jax": Exchange(("all-gather",), ("reduce-scatter",)),
}


def exchange_of(framework: str, parallel: str) -> Exchange:
    """What a strategy exchanges."""
    return SHARDED[framework] if parallel == "fsdp" else REPLICATED


@dataclass(frozen=True)
class Projected:
    """A step on so many devices, by the model.

    Args:
      compute_seconds: forward, backward and update on one device.
      exchange_seconds: of all buckets, one after another.
      exposed_seconds: what of that does not hide behind computation.
      algorithm: "ring" or "tree", the faster; "none" on one device. What is sharded
        goes around rings alone.
    """

    devices: int
    compute_seconds: float
    exchange_seconds: float
    exposed_seconds: float
    algorithm: str
    images_per_second: float
    efficiency: float

    @property
    def step_seconds(self) -> float:
        return self.compute_seconds + self.exposed_seconds


def gradient_bytes(parameters: int, precision: str) -> int:
    """What a step sums over the devices: every gradient once, in fp32 or in fp64.

    Whatever precision computed them; `tests/twins/test_wiring.py` reads the same from
    JAX's compiled step and from DDP's buckets. A few scalars travel along. Parameters
    that are gathered are as many bytes.

    >>> gradient_bytes(25_557_032, "bf16")
    102228128
    """
    return parameters * (8 if precision == "fp64" else 4)


def ring_seconds(
    nbytes: float, devices: int, net: Interconnect, rounds: int = 2
) -> float:
    """All-reduce around a ring: reduce-scatter, then all-gather; a round for either.

    Each is n - 1 steps of m / n bytes: bandwidth-optimal, and slow to start where n is
    large. All go at the pace of the slowest link.

    Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of
    workstations, JPDC 69 (2009); Thakur, Rabenseifner and Gropp, Optimization of
    collective communication operations in MPICH, IJHPCA 19 (2005).

    >>> round(ring_seconds(100e6, 8, INTERCONNECTS["dgx-a100"]) * 1e3, 3)  # ms
    0.792
    """
    nodes = _nodes(devices, net)
    across = rounds * (nodes - 1)
    inside = rounds * (devices - 1) - across
    start = inside * net.inside.latency + across * net.between.latency
    return start + rounds * (devices - 1) / devices * nbytes / _slowest(nodes, net)


def tree_seconds(nbytes: float, devices: int, net: Interconnect) -> float:
    """All-reduce up and down a tree over nodes, and a chain within each.

    2 (g - 1) steps within a node and 2 log2(n / g) between nodes, pipelined, so that
    each byte passes a link twice.

    Source: Sanders, Speck and Traeff, Two-tree algorithms for full bandwidth broadcast,
    reduction and scan, Parallel Computing 35 (2009); NCCL's src/graph/tuning.cc counts
    the same steps.

    >>> round(tree_seconds(0, 1024, INTERCONNECTS["dgx-a100"]) * 1e6)  # us, start alone
    182
    """
    nodes = _nodes(devices, net)
    in_node = min(devices, net.devices_per_node)
    depth = math.ceil(math.log2(nodes))
    start = 2 * ((in_node - 1) * net.inside.latency + depth * net.between.latency)
    return start + 2 * nbytes / _slowest(nodes, net)


def project(
    *,
    compute_seconds: float,
    device_batch: float,
    gradient_bytes: float,
    net: Interconnect,
    devices: Sequence[int] = tuple(2**power for power in range(11)),
    strong: bool = False,
    overlap: float = BACKWARD,
    bucket_bytes: float = BUCKET_BYTES,
    exchange: Exchange = REPLICATED,
) -> list[Projected]:
    """Throughput on up to 1,024 devices, from a step measured on one.

    Args:
      compute_seconds: of a step on one device without exchange.
      device_batch: examples of that step.
      gradient_bytes: of all parameters, and so of all gradients.
      strong: whether the global batch stays and a device's share of it shrinks, and
        with it the computation; optimistic, as small batches fill a device less.
      overlap: share of the computation, all in backward, that exchange may hide
        behind; in forward half as much, as it computes half as much. 0 for none.
      exchange: what a step exchanges.

    Raises:
      ConfigError: if a number is out of range.
    """
    _check(compute_seconds=compute_seconds, device_batch=device_batch)
    _check(gradient_bytes=gradient_bytes, bucket_bytes=bucket_bytes)
    if not 0 <= overlap <= 1:
        raise ConfigError(f"overlap must lie in [0, 1], got {overlap}")
    projected = []
    for n in devices:
        compute = compute_seconds / n if strong else compute_seconds
        seconds, exposed, algorithm = 0.0, 0.0, "none"
        passes = (exchange.forward, overlap / 2), (exchange.backward, overlap)
        for collectives, hides in passes if n > 1 else ():
            times = [
                _seconds(c, gradient_bytes, bucket_bytes, n, net) for c in collectives
            ]
            if times:
                whole, (_, end, algorithm) = sum(t[0] for t in times), times[-1]
                seconds += whole
                exposed += max(whole - hides * compute, end)
        examples = device_batch * (1 if strong else n)
        rate = examples / (compute + exposed)
        one = device_batch / compute_seconds
        efficiency = rate / one / n
        projected.append(
            Projected(n, compute, seconds, exposed, algorithm, rate, efficiency)
        )
    return projected


def describes(errors: Mapping[int, float]) -> bool:
    """Whether the model is near enough, on the most devices measured, to be quoted.

    Args:
      errors: devices -> predicted over measured, minus 1.

    >>> describes({2: 0.9, 4: 0.2}), describes({2: 0.2, 16: 2.33}), describes({})
    (True, False, True)
    """
    return abs(errors[max(errors)]) <= TRUSTED if errors else True


def by_law(fit: Fit, devices: int) -> Estimate:
    """Images/s by Amdahl's or Gustafson's law as it was fitted to a curve.

    The interval is that of the serial fraction alone, and this in [0, 1]: outside it
    neither law means anything so far from the curve.
    """
    speedup = {AMDAHL.name: amdahl_speedup, GUSTAFSON.name: gustafson_speedup}[fit.law]
    assert fit.base_rate is not None
    base, size = fit.base_rate, np.array(float(devices))
    serial = fit.parameters["serial fraction"]
    return through(serial, lambda s: base * speedup(size, s.clip(0, 1)))


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
        is no number of bytes or seconds.
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
    """The machine that such a device is sold in; None where its name does not tell.

    Args:
      links: how the machine's GPUs are joined, as `environment.json` has them; without
        NVLink it is not that machine.

    >>> assumed_interconnect("NVIDIA A100-SXM4-80GB").name
    "DGX A100, 8 A100, 8 x HDR InfiniBand (assumed from the device's name)"
    """
    joined = {link for row in links for link in row if link is not None}
    if "MIG" in device.split() or (joined and NVLINK not in joined):
        return None
    for pattern, name in SOCKETED.items():
        if re.search(pattern, device):
            net = INTERCONNECTS[name]
            return replace(net, name=f"{net.name} (assumed from the device's name)")
    return None


def read_interconnect(given: str) -> Interconnect:
    """A machine of `INTERCONNECTS` by name, or what a file of timed all-reduces says.

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
            f"--interconnect {given} is no machine and no file; one of: "
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


def bus_bandwidth(nbytes: float, seconds: float, devices: int) -> float:
    """Bytes/s that each device's link carried in an all-reduce, whatever the algorithm.

    Source: nccl-tests, doc/PERFORMANCE.md: B = S/t x 2 (n - 1) / n.

    >>> bus_bandwidth(8e9, 0.1, 8) / 1e9
    140.0
    """
    return nbytes / seconds * 2 * (devices - 1) / devices


def _seconds(
    collective: str, nbytes: float, bucket: float, devices: int, net: Interconnect
) -> tuple[float, float, str]:
    """Seconds of all buckets, of the last one, and the algorithm of the whole ones."""
    whole, rest = divmod(nbytes, bucket)

    def faster(size: float) -> tuple[float, str]:
        if collective != "all-reduce":
            return ring_seconds(size, devices, net, rounds=1), "ring"
        ring, tree = (f(size, devices, net) for f in (ring_seconds, tree_seconds))
        return min((ring, "ring"), (tree, "tree"))

    last, algorithm = faster(rest or bucket)
    if not whole:
        return last, last, algorithm
    each, algorithm = faster(bucket)
    return whole * each + (last if rest else 0.0), last, algorithm


def _nodes(devices: int, net: Interconnect) -> int:
    return math.ceil(devices / net.devices_per_node)


def _slowest(nodes: int, net: Interconnect) -> float:
    if nodes == 1:
        return net.inside.bandwidth
    return min(net.inside.bandwidth, net.between.bandwidth)


def _check(**given: float) -> None:
    for name, value in given.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} must be finite and > 0, got {value}")
