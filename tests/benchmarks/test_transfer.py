"""What benchmarks/transfer.py takes for a training that was done before."""

from dataclasses import replace

import pytest

from benchmarks.transfer import is_done
from recipe.errors import RecordError
from tests.record.runs import finished, recipe


def test_a_finished_run_is_used_again_if_it_is_of_the_same_recipe(tmp_path):
    run = tmp_path / "run"
    given = recipe(run)
    assert not is_done(run, given)
    finished(run)
    assert is_done(run, given)
    other = replace(given, train=replace(given.train, seed=given.train.seed + 1))
    with pytest.raises(RecordError, match="of another recipe than is measured now"):
        is_done(run, other)
