"""Every field of a run folder's files: its type, unit and meaning.

`docs/record.md` explains the same fields; a test keeps the two in step and checks a
real run's files against these tables.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recipe.errors import RecordError
from recipe.renamed import KEYS, OPTIONS, with_new_fields, with_new_names

SCHEMA_VERSION = 3
READABLE = (1, 2, 3)


@dataclass(frozen=True)
class Field:
    """One field: the JSON types it may have, and what it means, with its unit.

    Args:
      since: the schema version that introduced it; earlier files lack it.
      before: its value when such files are read.
    """

    types: tuple[type, ...]
    meaning: str
    since: int = 1
    before: Any = None


INT, TEXT, FLAG = (int,), (str,), (bool,)
NUMBER = (float, int)
# JSON has no such numbers: they are written by name wherever a float may be.
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
MAYBE_NUMBER = (*NUMBER, type(None))

MOST = 2**63 - 1  # of any integer: JSON allows larger ones, which no float can hold

# Losses are in nats, or in squared units of the target without classes.
STEP = {
    "kind": Field(TEXT, '"step"'),
    "step": Field(INT, "optimizer steps done, from 1"),
    "epoch": Field(INT, "the current pass over the training set, from 1"),
    "loss": Field(NUMBER, "mean over the global batch before the update"),
    "learning_rate": Field(NUMBER, "of this update"),
    "grad_norm": Field(NUMBER, "2-norm of the global gradient"),
    "loss_scale": Field(NUMBER, "factor on the loss; 1 without scaling"),
    "skipped": Field(FLAG, "no update: the scaled gradient was not finite"),
    "examples": Field(INT, "training examples seen so far"),
}
WINDOW = {
    "kind": Field(TEXT, '"window"'),
    "step": Field(INT, "optimizer steps done at its end"),
    "steps": Field(INT, "optimizer steps in it"),
    "seconds": Field(NUMBER, "from synchronisation to synchronisation, slowest rank"),
    "step_seconds": Field(NUMBER, "mean of its steps on the slowest rank"),
    "rank_seconds": Field((list,), "the same as seconds, of each rank in order"),
    "data_seconds": Field(NUMBER, "of these, on the host to plan and place batches"),
    "dispatch_seconds": Field(NUMBER, "of these, on the host to issue the steps"),
    "images_per_second": Field(NUMBER, "training throughput over all devices"),
    "warmup": Field(FLAG, "whether it is the first window, excluded from the median"),
    "measured": Field(
        FLAG, "whether it was timed after the training", since=2, before=False
    ),
}
ROUND = {
    "kind": Field(TEXT, '"round"'),
    "step": Field(INT, "optimizer steps done when replicas were averaged"),
    "fragment": Field(INT, "group of layers that was, from 0"),
    "bytes": Field(INT, "that a device sends for it, by a ring"),
    "pseudo_gradient_norm": Field(NUMBER, "2-norm of outer weights minus average"),
    "spread": Field(NUMBER, "root mean square distance of replicas to their average"),
}
EVALUATION = {
    "kind": Field(TEXT, '"evaluation"'),
    "step": Field(INT, "optimizer steps done"),
    "epoch": Field(INT, "the current pass over the training set, from 1"),
    "loss": Field(NUMBER, "mean over the test set"),
    "accuracy": Field(MAYBE_NUMBER, "fraction in [0, 1]; null without classes"),
    "precision": Field(MAYBE_NUMBER, "unweighted mean over classes"),
    "recall": Field(MAYBE_NUMBER, "unweighted mean over classes"),
    "f1": Field(MAYBE_NUMBER, "unweighted mean over classes"),
}
TEST = {
    **{name: EVALUATION[name] for name in ("loss", "accuracy", "precision", "recall")},
    "f1": EVALUATION["f1"],
    "confusion": Field((list, type(None)), "counts of true class i predicted as j"),
}
FEDERATED = {
    "kind": Field(TEXT, '"federated"'),
    "step": Field(INT, "rounds done, this one included"),
    "clients": Field(INT, "that trained in the round"),
    "examples": Field(INT, "of these clients, times their local epochs"),
    "bytes_down": Field(INT, "of the weights that they received, all together"),
    "bytes_up": Field(INT, "of the weights that they sent back"),
}
RESUME = {
    "kind": Field(TEXT, '"resume"'),
    "step": Field(INT, "optimizer steps done when the run resumed"),
    "framework": Field(TEXT, 'that resumed it, "torch" or "jax"'),
    "world_size": Field(INT, "devices that it resumed on"),
    "source": Field(TEXT, "the run folder whose checkpoint was taken"),
    "left_out": Field((list,), "why each newer checkpoint was skipped"),
    "differences": Field((list,), "from the recipe before, by run.resume_anyway"),
    "again_until": Field(INT, "the last step recorded before it resumed"),
}
ROWS = {
    "step": STEP,
    "window": WINDOW,
    "round": ROUND,
    "federated": FEDERATED,
    "evaluation": EVALUATION,
    "resume": RESUME,
}

ENVIRONMENT = {
    "framework": Field(TEXT, '"torch" or "jax"'),
    "devices": Field((list,), "names of rank 0's devices"),
    "framework_settings": Field(
        (dict,), "what makes its steps fast: name to value", since=3, before={}
    ),
    "python": Field(TEXT, "version"),
    "packages": Field((dict,), "name to version, null where not installed"),
    "platform": Field(TEXT, "operating system"),
    "processor": Field(TEXT, "the CPU's name"),
    "cpu_count": Field((int, type(None)), "logical cores"),
    "cores": Field((list, type(None)), "of the host that rank 0 may use", since=2),
    "omp_num_threads": Field((str, type(None)), "as rank 0 has it set", since=2),
    "memory_bytes": Field(INT, "of the machine"),
    "gpus": Field((dict, type(None)), "of the machine, null without NVIDIA's driver"),
    "network_settings": Field(
        (dict, type(None)), "variables that choose the network of collectives", since=3
    ),
    "host": Field(TEXT, "its name"),
    "git_commit": Field((str, type(None)), "of the checkout, null outside git"),
    "git_dirty": Field((bool, type(None)), "whether tracked files had changes"),
    "command": Field((list,), "rank 0's command line"),
}
GPUS = {
    "driver": Field((str, type(None)), "version of NVIDIA's driver"),
    "gpus": Field((list,), "each GPU of the machine"),
    "links": Field((list,), "of each, its connection to every other"),
}
GPU = {
    "name": Field((str, type(None)), "of its kind"),
    "memory_bytes": Field((int, type(None)), "of the GPU"),
    "power_limit_watts": Field(MAYBE_NUMBER, "the cap that is enforced"),
    "max_sm_clock_mhz": Field((int, type(None)), "its maximum"),
}
SUMMARY = {
    "schema_version": Field(INT, "of every file in the folder"),
    "status": Field(TEXT, '"finished", "diverged", "stopped" or "failed"'),
    "error": Field((str, type(None)), "why it did not finish"),
    "framework": Field(TEXT, '"torch" or "jax"'),
    "experiment": Field(TEXT, "the recipe's name"),
    "data": Field(TEXT, "the dataset's name"),
    "model": Field(TEXT, "the architecture's name"),
    "parallel": Field(TEXT, '"dp", "fsdp", "pmap" or "local_sgd"'),
    "precision": Field(TEXT, '"bf16", "fp16", "fp32", "fp64" or "tf32"'),
    "deterministic": Field(FLAG, "whether only deterministic kernels were allowed"),
    "compiled": Field(FLAG, "whether its steps were compiled, as JAX's always are"),
    "ablated": Field((list,), "keys of what its steps omit; it trains nothing then"),
    "resumed_anyway": Field((list,), "differences allowed by run.resume_anyway"),
    "world_size": Field(INT, "devices"),
    "processes": Field(INT, "operating-system processes"),
    "global_batch_size": Field(INT, "examples per optimizer step over all devices"),
    "parameters": Field(INT, "trained numbers in the model, none of frozen layers"),
    "new_head": Field(
        (list,), "leaves drawn although model.weights has them", since=2, before=[]
    ),
    "steps": Field(INT, "optimizer steps done"),
    "skipped_steps": Field(INT, "of these, without an update: see loss_scale"),
    "images_per_second": Field((dict,), "median, and the timed windows it is of"),
    "compile_seconds": Field(MAYBE_NUMBER, "compiling the steps; 0 where eager"),
    "compile_cached": Field(
        (bool, type(None)), "from a cache; null where eager", since=2
    ),
    "startup_seconds": Field(MAYBE_NUMBER, "process start to ready, without compiling"),
    "test": Field((dict, type(None)), "the last evaluation, with the confusion matrix"),
    "peak_memory_bytes": Field((int, type(None)), "largest of any rank"),
    "data_fingerprint": Field(TEXT, "SHA-256 of the dataset's arrays"),
    "config_hash": Field(TEXT, "SHA-256 of what makes two runs the same experiment"),
    "run_dir": Field(TEXT, "where the folder was written"),
}
CHECKPOINT = {
    "schema_version": Field(INT, "of the checkpoint"),
    "step": Field(INT, "optimizer steps done"),
    "epoch": Field(INT, "the current pass over the training set, from 1"),
    "framework": Field(TEXT, 'that wrote it, "torch" or "jax"'),
    "world_size": Field(INT, "devices of the run that wrote it"),
    "config_hash": Field(TEXT, "SHA-256 of what makes two runs the same experiment"),
    "recipe": Field(
        (dict,), "what config_hash is of, and train.perturb_seed: key -> value"
    ),
    "data_fingerprint": Field(TEXT, "SHA-256 of the dataset's arrays"),
    "state": Field((dict,), "numbers beside the arrays: name -> number"),
    "test": Field((dict, type(None)), "the last evaluation's step and metrics"),
    "files": Field((dict,), "file name -> its sha256, and its size in bytes"),
}
CHECKPOINT_FILE = {
    "sha256": Field(TEXT, "of the file"),
    "bytes": Field(INT, "its size"),
}
CHECKPOINT_TEST = {
    "step": Field(INT, "optimizer steps done when it was evaluated"),
    **TEST,
}


def _list_of_keys(value: Any) -> Any:
    return [_renamed(KEYS, key) for key in value] if type(value) is list else value


def _renamed(names: dict[str, str], value: Any) -> Any:
    return names.get(value, value) if isinstance(value, str) else value


# Fields whose values are names that may be old, and what makes them current.
RENAMED: dict[str, Callable[[Any], Any]] = {
    "model": lambda name: _renamed(OPTIONS["model"], name),
    "ablated": _list_of_keys,
    "recipe": lambda parts: with_new_names(parts) if type(parts) is dict else parts,
}


def strict_json(value: Any) -> Any:
    """JSON has no NaN: floats that are not finite become their names."""
    if isinstance(value, dict):
        return {key: strict_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strict_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def restored_fields(given: dict[str, Any], table: dict[str, Field]) -> dict[str, Any]:
    """The inverse of `strict_json`, for numbers alone: a run may be named NaN."""
    return {
        name: _restored(value) if {float, dict} & {*table[name].types} else value
        for name, value in given.items()
    }


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored(item) for item in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def with_earlier(given: dict[str, Any], table: dict[str, Field]) -> dict[str, Any]:
    """A row or file as the schema of today has it, of today or of an earlier one."""
    given = with_new_fields(given, table)
    for name in given.keys() & table.keys() & RENAMED.keys():
        given[name] = RENAMED[name](given[name])
    lacks = {
        name: field.before
        for name, field in table.items()
        if field.since > READABLE[0] and name not in given
    }
    return given | lacks


def check_fields(given: dict[str, Any], table: dict[str, Field], where: str) -> None:
    """Refuse a row or file with a field missing, unknown or of another type.

    Raises:
      RecordError: naming the place and the field.
    """
    if missing := table.keys() - given.keys():
        raise RecordError(f"{where} lacks {', '.join(sorted(missing))}")
    if unknown := given.keys() - table.keys():
        raise RecordError(f"{where} has unknown {', '.join(sorted(unknown))}")
    for name, field in table.items():
        value = given[name]
        named = float in field.types and isinstance(value, str) and value in NOT_FINITE
        if type(value) not in field.types and not named:
            raise RecordError(
                f"{where}: {name} is {value!r}, expected "
                + " or ".join(t.__name__ for t in field.types)
            )
        if type(value) is int and abs(value) > MOST:
            raise RecordError(f"{where}: {name} is beyond 64 bits")
