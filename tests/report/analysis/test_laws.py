"""The formulas give what was published; fits find what was put in."""

import numpy as np
import pytest

from report.analysis.intervals import ratio_estimate, ratio_interval
from report.analysis.laws import (
    AMDAHL,
    GUSTAFSON,
    UNIVERSAL,
    amdahl_speedup,
    fit,
    gustafson_speedup,
    karp_flatt,
    parameter_intervals,
)

DEVICES = [1, 2, 4, 8, 16, 32]


def universal_speedup(devices, contention, coherency):
    """Gunther, Guerrilla Capacity Planning (2007), equation 4.31."""
    others = devices - 1
    return devices / (1 + contention * others + coherency * devices * others)


def test_the_universal_law_gives_the_values_of_its_formula():
    found = universal_speedup(np.array([2.0, 8.0]), 0.02, 0.02)
    assert found.round(4).tolist() == [1.8868, 3.5398]


SERIAL = 0.05


# What was published


@pytest.mark.parametrize(
    ("devices", "rates", "speedup", "efficiency"),
    [
        # NVIDIA DeepLearningExamples, PyTorch ResNet-50 v1.5, DGX A100, images/s
        ((1, 8), (2470, 16621), 6.73, 0.841),  # AMP
        ((1, 8), (938, 7248), 7.73, 0.966),  # TF32; the table cuts it to 7.72
        # MaxText, Llama2-7B on H100, TFLOP/s per chip times chips
        ((8, 128), (8 * 492, 128 * 375), 12.2, 0.762),
        # Kakao Brain, DAWNBench CIFAR-10 on V100s: runs per 57.0 s and per 28.0 s
        ((1, 4), (1 / 57.0, 1 / 28.0), 2.04, 0.509),
    ],
)
def test_published_tables_give_their_speedup_and_efficiency(
    devices, rates, speedup, efficiency
):
    ratio = ratio_estimate([rates[1]], [rates[0]])
    assert ratio.value == pytest.approx(speedup, abs=0.05)
    found = ratio.value * devices[0] / devices[1]
    assert found == pytest.approx(efficiency, abs=5e-4)


# Quinn, Parallel Programming in C with MPI and OpenMP (2004), section 7.5: a serial
# part of a tenth, and an overhead that grows with the processors.
@pytest.mark.parametrize(
    ("speedups", "fractions"),
    [
        ([1.82, 2.50, 3.08, 3.57, 4.00, 4.38, 4.71], [0.1] * 7),
        (
            [1.87, 2.61, 3.23, 3.73, 4.14, 4.46, 4.71],
            [0.070, 0.075, 0.080, 0.085, 0.090, 0.095, 0.100],
        ),
    ],
)
def test_karp_and_flatts_fraction_is_that_of_quinns_tables(speedups, fractions):
    found = karp_flatt(np.array(speedups), np.arange(2.0, 9.0))
    np.testing.assert_allclose(found, fractions, atol=1.1e-3)


# Quinn (2004): 95 % parallel on 8 processors, and 20 % serial without bound; Hennessy
# and Patterson, Computer Architecture (5th ed.), section 5.1: 80 of 100 processors
# take a serial part of 0.25 %.
@pytest.mark.parametrize(
    ("serial", "devices", "speedup"),
    [(0.05, 8, 5.9), (0.2, np.inf, 5.0), (0.0025, 100, 80.0)],
)
def test_amdahls_law_gives_the_textbooks_values(serial, devices, speedup):
    assert float(amdahl_speedup(np.array(devices), serial)) == pytest.approx(
        speedup, rel=0.01
    )


# Gustafson (1988): 1,024 processors, s of 0.4 to 0.8 %. Quinn (2004), section 7.4: 3 %
# on 10 processors, and 5 % on 64.
@pytest.mark.parametrize(
    ("serial", "devices", "speedup"),
    [(0.004, 1024, 1020), (0.008, 1024, 1016), (0.03, 10, 9.73), (0.05, 64, 60.85)],
)
def test_gustafsons_law_gives_the_published_values(serial, devices, speedup):
    found = float(gustafson_speedup(np.array(devices), serial))
    assert found == pytest.approx(speedup, rel=5e-4)


# The test of R's package usl (Moeding; tests/coef.R): throughput over load, whose
# coefficients are 0.02, 0.02 and 1.00.
USL_LOAD = [1, 2, 4, 6, 8, 10]
USL_THROUGHPUT = [1, 1.8868, 3.0769, 3.5294, 3.5398, 3.3557]


def test_the_universal_law_finds_the_coefficients_of_the_usl_package():
    found = fit(UNIVERSAL, USL_LOAD, [[x] for x in USL_THROUGHPUT])
    values = [parameter.value for parameter in found.parameters.values()]
    assert values == pytest.approx([0.02, 0.02], rel=1e-3)
    assert found.base_rate == pytest.approx(1.0, rel=1e-3)
    assert found.held_out == 10
    assert found.predicted == pytest.approx(3.3557, rel=1e-4)


def test_amdahls_law_is_the_universal_one_without_coherency():
    p = np.array([1.0, 3.0, 64.0])
    np.testing.assert_allclose(universal_speedup(p, 0.1, 0.0), amdahl_speedup(p, 0.1))


# Simulated studies, whose serial fraction is known


@pytest.fixture
def rng():
    return np.random.default_rng(19670418)


def simulated(rng, speedup, repeats, noise=0.02, studies=1000):
    """Rates of every point, shape (studies, repeats); noise may differ by point."""
    noises = np.broadcast_to(noise, len(DEVICES))
    return [
        1000 * s * np.exp(sd * rng.normal(size=(studies, repeats)))
        for s, sd in zip(speedup(np.array(DEVICES, float)), noises, strict=True)
    ]


LAWS = [
    (AMDAHL, lambda p: amdahl_speedup(p, SERIAL), [SERIAL]),
    (GUSTAFSON, lambda p: gustafson_speedup(p, SERIAL), [SERIAL]),
    (UNIVERSAL, lambda p: universal_speedup(p, SERIAL, 0.001), [SERIAL, 0.001]),
]
NAMES = [law.name for law, *_ in LAWS]


@pytest.mark.parametrize("repeats", [5, 10])
@pytest.mark.parametrize("noise", [0.02, 0.01 * np.arange(1, 7)])
@pytest.mark.parametrize(("law", "speedup", "truth"), LAWS, ids=NAMES)
def test_the_interval_of_a_serial_fraction_covers_it_95_times_in_100(
    rng, law, speedup, truth, noise, repeats
):
    points = simulated(rng, speedup, repeats, noise)
    held_in = np.array(DEVICES[:-1], float)
    _, low, high = parameter_intervals(law, held_in, points[:-1])
    covered = np.mean((low <= truth) & (high >= truth), axis=0)
    assert np.all((covered >= 0.93) & (covered <= 0.97)), covered


def test_the_interval_of_karp_and_flatts_fraction_covers_it_95_times_in_100(rng):
    points = simulated(rng, lambda p: amdahl_speedup(p, SERIAL), repeats=5)
    eight = np.array(8.0)
    _, low, high = ratio_interval(points[3], points[0])
    covered = (karp_flatt(high, eight) <= SERIAL) & (karp_flatt(low, eight) >= SERIAL)
    assert 0.93 <= covered.mean() <= 0.97


@pytest.mark.parametrize(("law", "speedup", "truth"), LAWS, ids=NAMES)
def test_a_curve_of_a_law_gives_its_parameters_and_its_largest_point(
    law, speedup, truth
):
    rates = [[50 * s] for s in speedup(np.array(DEVICES, float))]
    found = fit(law, DEVICES, rates)
    values = [parameter.value for parameter in found.parameters.values()]
    assert values == pytest.approx(truth)
    assert found.base_rate == pytest.approx(50)
    assert found.prediction_error == pytest.approx(0, abs=1e-9)


def test_the_largest_point_is_held_out_and_its_error_told():
    speedup = amdahl_speedup(np.array(DEVICES, float), SERIAL)
    rates = [[r, 0.99 * r, 1.01 * r] for r in 100 * speedup]
    rates[-1] = [0.8 * r for r in rates[-1]]
    found = fit(AMDAHL, DEVICES, rates)
    assert found.parameters["serial fraction"].value == pytest.approx(SERIAL)
    assert found.held_out == 32
    assert found.prediction_error == pytest.approx(1 / 0.8 - 1)


def test_a_base_of_several_devices_is_the_unit_of_the_law():
    speedup = amdahl_speedup(np.array(DEVICES, float), SERIAL)
    found = fit(AMDAHL, [8 * n for n in DEVICES], [[s] for s in speedup])
    assert found.parameters["serial fraction"].value == pytest.approx(SERIAL)
    assert found.held_out == 256


@pytest.mark.parametrize("points", [1, 4])
def test_below_five_points_there_is_no_fit_but_the_reason(points):
    found = fit(AMDAHL, DEVICES[:points], [[1.0]] * points)
    assert not found.parameters
    assert found.reason.endswith("a fit needs 5: the largest is held out")


def test_below_three_repeats_a_fit_has_no_intervals_but_the_reason():
    rates = [[s, s] for s in amdahl_speedup(np.array(DEVICES, float), SERIAL)]
    found = fit(AMDAHL, DEVICES, rates).parameters["serial fraction"]
    assert found.value == pytest.approx(SERIAL)
    assert (found.low, found.reason) == (None, "2 repeats, an interval needs 3")
