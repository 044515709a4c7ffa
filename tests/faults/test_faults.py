"""Some rows of the table of faults; `make faults` has all of them."""

from dataclasses import replace
from itertools import product

import pytest

from tests.conftest import exhaustive_but
from tests.faults.more import CANARY, refuses, restarts, wandb
from tests.faults.rows import Broken, bench, make_happen
from tests.faults.table import TABLE, Fault

ROWS = (
    "SIGKILL of rank 0 in a save",
    "SIGSTOP of rank 1 in a step",
    "Ctrl-C while steps are compiled or wrapped",
    "SIGTERM in an evaluation",
    "a bit of the newest checkpoint's weights is flipped",
    "the input of rank 1 is NaN",
)


FRAMEWORKS = "torch", "jax"
# A kill, a hang and a signal, each in one framework.
KEPT = [("torch", ROWS[0]), ("jax", ROWS[1]), ("jax", ROWS[3])]


@pytest.fixture(scope="module", params=FRAMEWORKS)
def ranks(request, quick_python):
    with bench(request.param) as ready:
        yield replace(ready, python=quick_python)


@pytest.mark.parametrize(
    ("ranks", "name"),
    exhaustive_but(KEPT, product(FRAMEWORKS, ROWS)),
    indirect=["ranks"],
)
def test_what_is_promised_of_a_fault_is_kept(ranks, name):
    (fault,) = [fault for fault in TABLE if fault.name == name]
    make_happen(fault, ranks)


@pytest.mark.quick_in("torch")
def test_a_promise_that_is_not_kept_is_seen(ranks):
    quiet = Fault("nothing", "an error", statuses=[2, 2], says="error: ")
    with pytest.raises(Broken, match=r"left with \[0, 0\]"):
        make_happen(quiet, ranks)


@pytest.mark.quick_in("torch")
def test_torchruns_restart_resumes_by_itself(ranks):
    restarts(ranks)


@pytest.mark.quick_in("torch")
def test_a_key_that_wandb_refuses_is_in_no_file_of_a_run(ranks):
    assert len(CANARY) == 40
    wandb(refuses)(ranks)


def test_every_row_has_a_name_of_its_own():
    names = [fault.name for fault in TABLE]
    assert len(set(names)) == len(names)
