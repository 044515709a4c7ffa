"""Ranks agree, whichever of them knows, and whichever fails."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from recipe.errors import ConfigError, DuetError
from runtime.agreement import Ranks


@pytest.fixture
def on_ranks():
    """`on_ranks(count, call)`: what each rank's `call(ranks)` returns or raises."""

    def on_ranks(count, call):
        sent, barrier = [None] * count, Barrier(count, timeout=30)

        def run(rank):
            def exchange(value):
                sent[rank] = value
                barrier.wait()
                every = list(sent)
                barrier.wait()
                return every

            def gather(values):
                return np.array(exchange(values), np.float64)

            try:
                return call(Ranks(rank, count, gather, lambda x: exchange(x)[0]))
            except DuetError as error:
                return error

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(run, range(count)))

    return on_ranks


@pytest.mark.parametrize("count", [1, 3])
def test_what_one_rank_says_all_hear(on_ranks, count):
    assert on_ranks(count, lambda r: r.any(r.rank == count - 1)) == [True] * count
    assert on_ranks(count, lambda r: r.any(False)) == [False] * count


@pytest.mark.parametrize("count", [1, 3])
def test_rank_zero_alone_answers_and_all_have_it(on_ranks, count):
    asked = []

    def answer(ranks):
        return ranks.from_rank_zero(lambda: asked.append(ranks.rank) or "run/ä")

    assert on_ranks(count, answer) == ["run/ä"] * count
    assert asked == [0]


def test_an_error_of_rank_zero_is_one_on_all(on_ranks):
    def refuse():
        raise ConfigError("no such folder")

    first, second = on_ranks(2, lambda ranks: ranks.from_rank_zero(refuse))
    assert isinstance(first, ConfigError)
    assert type(second) is DuetError and str(second) == str(first) == "no such folder"


def test_each_rank_has_its_own_result_unless_one_fails(on_ranks):
    assert on_ranks(2, lambda r: r.on_every_rank(lambda: r.rank)) == [0, 1]

    def fails_on_rank_one(ranks):
        def make():
            if ranks.rank == 1:
                raise ConfigError("not here")

        return ranks.on_every_rank(make)

    first, second = on_ranks(2, fails_on_rank_one)
    assert str(first) == "stopped, since ranks [1] failed"
    assert str(second) == "not here" and second.of_one_rank


def test_an_error_of_all_ranks_is_not_of_one(on_ranks):
    def refuse():
        raise ConfigError("nowhere")

    for error in on_ranks(2, lambda ranks: ranks.on_every_rank(refuse)):
        assert not error.of_one_rank
