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
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recipe.errors import ConfigError
from recipe.execution import Strategy
from report.analysis.hardware import SEVERAL
from report.analysis.interconnects import Interconnect, assumed_interconnect
from report.analysis.intervals import Estimate, through
from report.analysis.laws import (
    AMDAHL,
    GUSTAFSON,
    Fit,
    amdahl_speedup,
    gustafson_speedup,
)
from report.analysis.scaling import SINGLE, WEAK, Curve

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
    exchanges = {"dp": REPLICATED, "pmap": REPLICATED, "fsdp": SHARDED[framework]}
    return exchanges[parallel]


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


@dataclass(frozen=True)
class Projection:
    """A curve beyond the devices that there were, by the model.

    Args:
      points: by world size, empty with a reason.
      errors: devices -> predicted over measured minus 1, where both are known.
    """

    curve: Curve
    interconnect: Interconnect | None
    points: tuple[Projected, ...] = ()
    errors: dict[int, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def describes(self) -> bool:
        """Whether the model is near enough, on the most devices measured, to be quoted.

        >>> found = [{2: 0.9, 4: 0.2}, {2: 0.2, 16: 2.33}, {}]
        >>> [Projection(None, None, errors=errors).describes for errors in found]
        [True, False, True]
        """
        errors = self.errors
        return not errors or abs(errors[max(errors)]) <= TRUSTED


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

    >>> from report.analysis.interconnects import INTERCONNECTS
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

    >>> from report.analysis.interconnects import INTERCONNECTS
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
      overlap: fraction of the computation, all in backward, that exchange may hide
        behind; in forward half as much, as it computes half as much. 0 for none.
      exchange: what a step exchanges.

    Raises:
      ConfigError: if a number is out of range.
    """
    positive = {"compute_seconds": compute_seconds, "device_batch": device_batch}
    positive |= {"gradient_bytes": gradient_bytes, "bucket_bytes": bucket_bytes}
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} must be finite and > 0, got {value}")
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


def project_curve(curve: Curve, net: Interconnect | None = None) -> Projection:
    """The model on a curve that begins with one device.

    Args:
      net: to project over; by default that of the machine that the device's name tells
        of.
    """
    setting = curve.setting
    gpus = curve.points[0].cell.runs[0].environment.get("gpus") or {}
    if net is None and SEVERAL not in setting.device:
        net = assumed_interconnect(setting.device, gpus.get("links", ()))
    reason = ""
    if curve.base is None:
        reason = curve.reason
    elif curve.base != 1 or curve.regime == SINGLE:
        reason = "the model begins with the step of one device"
    elif setting.parallel == Strategy.LOCAL_SGD:
        reason = (
            "replicas of local SGD exchange in rounds between steps, which the model "
            "of a step does not have"
        )
    elif net is None:
        reason = (
            f"how {setting.device} is joined to others is not known; measure it "
            "(benchmarks/all_reduce.py) or name a machine, and give --interconnect"
        )
    if reason or net is None:
        return Projection(curve, net, reason=reason)
    one = curve.points[0]
    run = one.cell.runs[0]
    measured = {p.cell.world_size: p.images_per_second.value for p in curve.points}
    strong = curve.regime != WEAK
    # Of a global batch that stays, a device has one example at least.
    most = min(1024, run.global_batch_size) if strong else 1024
    sizes = {2**power for power in range(11) if 2**power <= most}
    points = project(
        compute_seconds=run.global_batch_size / one.images_per_second.value,
        device_batch=run.global_batch_size,
        gradient_bytes=gradient_bytes(run.parameters, setting.precision),
        exchange=exchange_of(setting.framework, setting.parallel),
        net=net,
        devices=sorted(sizes | measured.keys()),
        strong=strong,
    )
    errors = {
        p.devices: p.images_per_second / measured[p.devices] - 1
        for p in points
        if p.devices in measured and p.devices > 1
    }
    return Projection(curve, net, tuple(points), errors)


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
