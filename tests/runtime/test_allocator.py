"""Freed memory is kept: counted in page faults, in a process of its own."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from runtime.allocator import keep_freed_memory
{before}
np.ones(2**22)  # 32 MB
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


def page_faults(before: str, **environment: str) -> int:
    script = FAULTS.format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", script],
        # NumPy's huge pages would leave few faults to count.
        env=os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


pytestmark = pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="of glibc alone"
)


def test_memory_that_was_freed_is_used_again():
    assert page_faults("keep_freed_memory()") < page_faults("") / 5


def test_what_the_environment_chose_stays():
    chosen = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    kept = page_faults("keep_freed_memory()")
    assert page_faults("keep_freed_memory()", **chosen) > 5 * kept
