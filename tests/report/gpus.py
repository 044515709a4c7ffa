"""NVIDIA GPUs as a record tells of them."""

GPU = {
    "name": "NVIDIA H100 80GB HBM3",
    "memory_bytes": 80 * 2**30,
    "power_limit_watts": 700.0,
    "max_sm_clock_mhz": 1980,
}
NVIDIA = {
    "driver": "580.65.06",
    "gpus": [GPU, GPU, GPU | {"power_limit_watts": None}],
    "links": [
        [None, "NVLink", "SYS"],
        ["NVLink", None, "SYS"],
        ["SYS", "SYS", None],
    ],
}
