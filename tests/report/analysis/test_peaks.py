"""A device's peak is its own data sheet's, whatever other names it resembles."""

import pytest

from report.analysis.hardware import peak_flops, peaks
from report.analysis.interconnects import INTERCONNECTS


@pytest.mark.parametrize(
    ("device", "bf16"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.4),
    ],
)
def test_the_form_of_a_chip_decides(device, bf16):
    assert peak_flops(device, "bf16") == bf16 * 1e12


@pytest.mark.parametrize(
    "device",
    ["NVIDIA RTX A1000", "NVIDIA A10", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "AMD EPYC"],
)
def test_what_no_data_sheet_here_tells_of_has_no_peak(device):
    assert peak_flops(device, "bf16") is None


def test_a_v100_has_no_bf16():
    assert peak_flops("Tesla V100-SXM2-16GB", "fp16") == 125e12
    assert peak_flops("Tesla V100-SXM2-16GB", "bf16") is None
    assert peak_flops("Tesla V100S-PCIE-32GB", "fp16") is None


def test_every_peak_and_every_machine_has_a_source():
    assert all(net.source and net.device for net in INTERCONNECTS.values())
    rows = peaks()
    assert rows and all("data sheet" in row["source"] for row in rows)
