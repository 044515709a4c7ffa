"""A step compiled once serves the runs after it, which it gives the same bits."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import exhaustive_but
from tests.launch.conftest import torchrun

TINY = ["train.steps=3", "train.global_batch_size=32", "model.hidden=[8]"]
LINE = ["train.steps=3", "experiment=linear_line"]  # has fewest kernels for g++


@pytest.fixture
def run_with(run_quickly, tmp_path):
    """`run_with(folder, ...)`: a run's summary, its weights and stderr."""

    def run(
        cache, *overrides, recipe=TINY, processes=1, script="launch/jax.py", **variables
    ):
        folder = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        folder.mkdir()
        launcher = torchrun(processes, script) if processes > 1 else [script]
        variables = {"JAX_COMPILATION_CACHE_DIR": cache, **variables}
        done = run_quickly(
            [*launcher, *recipe, f"run.dir={folder}", *overrides], **variables
        )
        assert done.returncode == 0, done.stdout + done.stderr
        summary = json.loads((folder / "summary.json").read_text())
        weights = (folder / "final.safetensors").read_bytes()
        return summary["compile_cached"], weights, done.stderr

    return run


@pytest.mark.parametrize(
    "overrides, processes",
    exhaustive_but(
        [(["deterministic=true"], 1)],
        [
            (["deterministic=true"], 1),
            (["precision=fp64"], 1),
            (["parallel=pmap", "devices=2"], 1),
            (["parallel=fsdp"], 2),
        ],
    ),
)
def test_a_second_process_finds_the_steps_and_gives_the_same_bits(
    run_with, tmp_path, overrides, processes
):
    cache = tmp_path / "cache"
    first = run_with(cache, *overrides, processes=processes)
    second = run_with(cache, *overrides, processes=processes)
    assert (first[0], second[0]) == (False, True)
    assert first[1] == second[1]


def test_other_arithmetic_is_compiled_again(run_with, tmp_path):
    run_with(tmp_path / "cache")
    assert run_with(tmp_path / "cache", "precision=fp64")[0] is False


def test_a_broken_entry_is_reported_and_replaced(run_with, tmp_path):
    cache = tmp_path / "cache"
    _, weights, _ = run_with(cache)
    (entry,) = cache.rglob("jit_window_step-*-cache")
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])
    cached, again, stderr = run_with(cache)
    assert (cached, again) == (False, weights)
    (line,) = stderr.splitlines()
    assert line.startswith(f"warning: {entry.parent}: removed a broken entry")
    assert run_with(cache)[::2] == (True, "")


def test_an_entry_whose_writing_was_interrupted_does_not_end_caching(
    run_with, tmp_path
):
    cache = tmp_path / "cache"
    run_with(cache)
    (entry,) = cache.rglob("jit_window_step-*-cache")
    entry.with_name(f"{entry.name.removesuffix('cache')}atime").unlink()
    assert run_with(cache, "precision=fp64")[::2] == (False, "")
    assert run_with(cache, "precision=fp64")[::2] == (True, "")


def test_a_folder_that_cannot_be_written_is_one_line_and_no_cache(run_with):
    cached, _, stderr = run_with("/dev/null/cache")
    assert cached is False
    assert stderr.count("\n") == 1
    assert "warning: no compilation cache" in stderr and "/dev/null" in stderr


def test_the_key_turns_it_off(run_with, tmp_path):
    cache = tmp_path / "cache"
    assert run_with(cache, "compile_cache=false")[0] is False
    assert not cache.exists()


def test_without_a_folder_of_its_own_it_lies_in_the_users_cache(run_with, tmp_path):
    run_with(None, XDG_CACHE_HOME=tmp_path / "xdg")
    assert list(tmp_path.glob("xdg/duet/jax/*/jit_window_step-*-cache"))


def test_two_processes_may_write_it_at_once(run_with, tmp_path):
    cache = tmp_path / "cache"
    with ThreadPoolExecutor() as both:
        first, second = both.map(run_with, [cache, cache], ["train.seed=0"] * 2)
    assert first[1] == second[1] == run_with(cache)[1]


def test_eager_torch_compiles_nothing_that_a_cache_could_hold(run_with, tmp_path):
    assert run_with(tmp_path / "cache", script="launch/pytorch.py")[0] is None


def test_torch_compile_has_a_cache_of_its_own(run_with, tmp_path):
    def run(*overrides):
        variables = {"TORCHINDUCTOR_CACHE_DIR": tmp_path / "inductor"}
        script = "launch/pytorch.py"
        given = "compile=true", *overrides
        return run_with(None, *given, recipe=LINE, script=script, **variables)

    first, second, off = run(), run(), run("compile_cache=false")
    assert (first[0], second[0], off[0]) == (False, True, False)
    assert first[1] == second[1] == off[1]
