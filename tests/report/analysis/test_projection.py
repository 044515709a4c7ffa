"""The model of an exchange gives what its formulas say, and finds what was put in."""

import math

import numpy as np
import pytest

from recipe.errors import ConfigError
from report.analysis.interconnects import (
    INTERCONNECTS,
    Interconnect,
    Link,
    assumed_interconnect,
    measured_interconnect,
)
from report.analysis.projection import (
    BACKWARD,
    exchange_of,
    project,
    ring_seconds,
    tree_seconds,
)

RESNET50 = 4 * 25_557_032  # bytes of gradients, fp32
FLAT = Interconnect("flat", 1, Link(1e-5, 1e9), Link(1e-5, 1e9), "made up")


def bus_bandwidth(nbytes, seconds, devices):
    """Bytes/s that each device's link carried in an all-reduce, whatever the algorithm.

    Source: nccl-tests, doc/PERFORMANCE.md: B = S/t x 2 (n - 1) / n.
    """
    return nbytes / seconds * 2 * (devices - 1) / devices


def step_seconds(point):
    return point.compute_seconds + point.exposed_seconds


def projected(net=FLAT, **given):
    step = {"compute_seconds": 0.1, "device_batch": 256, "gradient_bytes": RESNET50}
    return project(**{**step, **given}, net=net)


def test_a_ring_takes_the_alpha_beta_models_time():
    # Thakur et al. (2005), section 3.5: 2 (p - 1) a + 2 (p - 1) / p n b
    expected = 14 * 1e-5 + 14 / 8 * 1e6 / 1e9
    assert ring_seconds(1e6, 8, FLAT) == pytest.approx(expected)


def test_a_ring_moves_what_nccl_tests_counts():
    free = Interconnect("", 8, Link(0.0, 2e9), Link(0.0, 2e9), "")
    assert bus_bandwidth(1e8, ring_seconds(1e8, 8, free), 8) == pytest.approx(2e9)


def test_goyals_estimate_of_bandwidth_is_the_rings():
    # Goyal et al., Accurate, large minibatch SGD (2017), section 4: 100 MB of ResNet-50
    # gradients behind 0.125 s of backward need 200 MB / 0.125 s = 12.8 Gbit/s.
    many = Interconnect("", 8, Link(0.0, 1.6e9), Link(0.0, 1.6e9), "")
    assert ring_seconds(100e6, 10**6, many) == pytest.approx(0.125, rel=1e-4)


def test_a_tree_starts_sooner_and_a_ring_moves_more():
    net = INTERCONNECTS["dgx-a100"]
    assert tree_seconds(1e3, 1024, net) < ring_seconds(1e3, 1024, net)
    assert ring_seconds(1e9, 8, net) < tree_seconds(1e9, 8, net)
    rows = projected(net, devices=(8, 1024))
    assert [row.algorithm for row in rows] == ["ring", "tree"]


def test_a_node_is_faster_inside_than_several_are():
    net = INTERCONNECTS["dgx-1-v100"]
    inside, across = (ring_seconds(RESNET50, n, net) for n in (8, 16))
    assert inside == pytest.approx(14 * 3.4e-6 + 14 / 8 * RESNET50 / 150e9)
    steps = 28 * 3.4e-6 + 2 * 9.6e-6
    assert across == pytest.approx(steps + 30 / 16 * RESNET50 / 50e9)


def test_it_reaches_1024_devices_and_efficiency_never_rises():
    rows = projected()
    assert [row.devices for row in rows] == [2**k for k in range(11)]
    efficiencies = [row.efficiency for row in rows]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert efficiencies[0] == 1.0 and rows[0].algorithm == "none"
    last = rows[-1]
    assert last.images_per_second == pytest.approx(1024 * 256 / step_seconds(last))


def test_what_hides_behind_backward_is_not_paid_for_but_the_last_bucket_is():
    (hidden,) = projected(INTERCONNECTS["dgx-a100"], devices=[8])
    rest = RESNET50 % (25 * 2**20)
    assert hidden.exchange_seconds < BACKWARD * hidden.compute_seconds
    last = ring_seconds(rest, 8, INTERCONNECTS["dgx-a100"])
    assert hidden.exposed_seconds == pytest.approx(last)
    (bare,) = projected(INTERCONNECTS["dgx-a100"], devices=[8], overlap=0)
    assert bare.exposed_seconds == bare.exchange_seconds > hidden.exposed_seconds


def test_what_is_sharded_goes_around_as_often_as_it_is_gathered_and_scattered():
    rounds = {("torch", "fsdp"): 3, ("jax", "fsdp"): 2, ("jax", "dp"): 2}
    for (framework, parallel), expected in rounds.items():
        given = {"exchange": exchange_of(framework, parallel), "devices": [8]}
        (row,) = projected(**given, bucket_bytes=RESNET50, overlap=0)
        whole = ring_seconds(RESNET50, 8, FLAT, rounds=1)
        assert row.exchange_seconds == pytest.approx(expected * whole)
        assert row.exposed_seconds == row.exchange_seconds


def test_forward_waits_for_its_first_bucket_and_the_rest_hides_behind_it():
    net = INTERCONNECTS["dgx-a100"]
    sharded = {"exchange": exchange_of("jax", "fsdp"), "devices": [8]}
    (row,) = projected(net, **sharded)
    rest = RESNET50 % (25 * 2**20)
    first_and_last = 2 * ring_seconds(rest, 8, net, rounds=1)
    assert row.exposed_seconds == pytest.approx(first_and_last)
    (slow,) = projected(FLAT, **sharded)
    hidden = slow.compute_seconds  # a third behind forward, the rest behind backward
    assert slow.exposed_seconds == pytest.approx(slow.exchange_seconds - hidden)


def test_strong_scaling_leaves_less_to_hide_behind():
    strong, weak = projected(strong=True)[-1], projected()[-1]
    assert strong.compute_seconds == pytest.approx(weak.compute_seconds / 1024)
    assert strong.efficiency < weak.efficiency
    assert strong.images_per_second == pytest.approx(256 / step_seconds(strong))


def test_an_interconnect_is_found_again_from_its_all_reduces():
    sizes = np.array([1e3, 1e5, 1e6, 1e7, 1e8])
    seconds = np.array([ring_seconds(size, 8, FLAT) for size in sizes])
    found = measured_interconnect(sizes, seconds, 8)
    assert found.inside.latency == pytest.approx(1e-5)
    assert found.inside.bandwidth == pytest.approx(1e9)
    assert found.source == "5 all-reduces timed on 8 devices"


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("Tesla V100-SXM2-16GB", "DGX-1"),
        ("NVIDIA A100-SXM4-80GB", "DGX A100"),
        ("NVIDIA H100 80GB HBM3", "DGX H100"),
        ("NVIDIA H200", "DGX H200"),
    ],
)
def test_a_socketed_gpus_machine_is_assumed_and_said_to_be(device, name):
    found = assumed_interconnect(device)
    assert found.name.startswith(name)
    assert found.name.endswith("(assumed from the device's name)")
    assert assumed_interconnect(device, [[None, "NVLink"], ["NVLink", None]]) == found
    assert assumed_interconnect(device, [[None, "SYS"], ["SYS", None]]) is None
    assert assumed_interconnect(f"{device} MIG 1g.10gb") is None


CARDS = [
    *("NVIDIA RTX A1000", "NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe"),
    *("NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H200 NVL"),
    *("Tesla V100-PCIE-16GB", "NVIDIA A10", "AMD EPYC"),
]


@pytest.mark.parametrize("device", CARDS)
def test_of_a_card_in_any_machine_no_interconnect_is_assumed(device):
    assert assumed_interconnect(device) is None


# NVIDIA DeepLearningExamples, PyTorch ResNet-50 v1.5, batch 256 a device (128 for fp32
# on V100): images/s on one device and on eight. docs/scaling.md has these errors.
PUBLISHED = [
    ("dgx-a100", 256, 2470, 16621, 0.19),  # AMP
    ("dgx-a100", 256, 938, 7248, 0.04),  # TF32
    ("dgx-1-v100", 256, 1200, 8322, 0.15),  # AMP
    ("dgx-1-v100", 128, 367, 2855, 0.03),  # FP32
]


@pytest.mark.parametrize(("net", "batch", "one", "eight", "error"), PUBLISHED)
def test_the_model_is_an_upper_bound_whose_error_on_published_tables_is_known(
    net, batch, one, eight, error
):
    (row,) = project(
        compute_seconds=batch / one,
        device_batch=batch,
        gradient_bytes=RESNET50,
        net=INTERCONNECTS[net],
        devices=[8],
    )
    assert row.images_per_second / eight - 1 == pytest.approx(error, abs=0.006)


@pytest.mark.parametrize(
    "given",
    [
        {"compute_seconds": 0.0},
        {"gradient_bytes": math.nan},
        {"device_batch": math.inf},
        {"bucket_bytes": -1},
        {"overlap": 1.5},
    ],
)
def test_numbers_out_of_range_are_refused_by_name(given):
    (name,) = given
    with pytest.raises(ConfigError, match=f"^{name} must "):
        projected(**given)
    projected()


@pytest.mark.parametrize(
    ("sizes", "devices"), [([1e6], 8), ([1e6, 1e6], 8), ([1e6, 1e7], 1)]
)
def test_what_tells_no_latency_from_bandwidth_is_refused(sizes, devices):
    with pytest.raises(ConfigError, match="all-reduces of two sizes or more"):
        measured_interconnect(np.array(sizes), np.full(len(sizes), 0.1), devices)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_an_all_reduce_of_no_size_or_time_is_refused(value):
    good, bad = np.array([1e6, 1e7]), np.array([1.0, value])
    for given in (good, bad), (bad, good):
        with pytest.raises(ConfigError, match="must be finite and > 0"):
            measured_interconnect(*given, 8)
