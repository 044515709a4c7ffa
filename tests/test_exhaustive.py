"""Of every law `make test` runs a case; exhaustive are only more.

In each framework, but where a test starts whole runs as processes: there most of what
two cases run is written once, and each takes seconds to start.
"""

from collections import defaultdict
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import COLLECTED

FRAMEWORKS = {"torch", "jax"}
PROCESSES = "tests/launch/", "tests/faults/"
# Of both frameworks all the same: what Duet promises of a run.
OF_BOTH = {
    "test_a_killed_run_that_resumes_is_the_uninterrupted_one",
    "test_digits_cnn_reaches_its_accuracy",
    "test_two_processes_leave_one_run_folder_that_reads_back_whole",
}


def laws_left_out(items: Iterable[Any]) -> list[tuple[str, str]]:
    """Tests, each with a framework or "", of which every case is marked exhaustive."""
    cases = defaultdict(list)
    for item in items:
        law, _, case = item.nodeid.partition("[")
        of = FRAMEWORKS & {*case.removesuffix("]").split("-")}
        if law.startswith(PROCESSES) and law.partition("::")[2] not in OF_BOTH:
            of = set()
        marked = item.get_closest_marker("exhaustive") is not None
        cases[law, "".join(of)].append(marked)
    return sorted(law for law, marked in cases.items() if all(marked))


def test_every_law_keeps_a_case(request):
    assert laws_left_out(request.config.stash[COLLECTED]) == []


@pytest.fixture
def case():
    """`case("test_x[jax-fp16]", exhaustive=True)`: as pytest collects it."""

    def case(nodeid: str, exhaustive: bool) -> Any:
        marker = pytest.mark.exhaustive if exhaustive else None
        return SimpleNamespace(nodeid=nodeid, get_closest_marker=lambda _: marker)

    return case


def test_a_law_that_make_test_leaves_out_would_be_named(case):
    fewer = [case("test_a[jax-fp16]", True), case("test_a[jax-fp32]", False)]
    assert laws_left_out(fewer) == []
    without_torch = [*fewer, case("test_a[torch-fp16]", True)]
    assert laws_left_out(without_torch) == [("test_a", "torch")]
    assert laws_left_out([case("test_b", True)]) == [("test_b", "")]
    started = "tests/launch/test_c.py::test_c"
    both = [case(f"{started}[torch]", True), case(f"{started}[jax]", False)]
    assert laws_left_out(both) == []
    assert laws_left_out(both[:1]) == [(started, "")]
