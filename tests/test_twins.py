"""torch_impl and jax_impl are read side by side: same files, same names, same order."""

import ast

import pytest

# Public names that one twin has and the other has no use for, by file, with the reason.
ALONE: dict[str, dict[str, str]] = {
    "layers.py": {
        "convolve": "oneDNN chooses a gradient's form on a CPU, XLA has one for all",
        "gelu": "PyTorch's own is this one already",
    },
    "optim.py": {
        "corrected_moments": "PyTorch's own takes 1 - beta^t in fp64 already",
        "multiply": "XLA makes one kernel of a product per gradient by itself",
    },
    "freeze.py": {
        "freeze": "a torch parameter itself tells whether it is trained",
        "split_frozen": "a pure step differentiates what it is given as such",
    },
    "own_dropout.py": {
        "AxisDropout": "JAX's order of axes is the one that units are counted in",
        "no_linen_dropout": "PyTorch has modules of one kind",
    },
    "exchange.py": {
        "only_the_last": "DDP shares gradients within the backward pass",
        "share_gradients": "DDP and fully_shard do, within the backward pass",
        "share_statistics": "in JAX they come with the gradients",
    },
    "parallel.py": {
        "is_sharded": "JAX's arrays are whole to whoever reads them",
        "own_shards": "for the same reason",
        "shards": "fully_shard chooses the axis by itself",
        "limit_in_flight": "XLA's CPU devices share one pool of threads in a process",
    },
    "weights.py": {
        "canonical_name": "Flax's names need no module to be told apart",
        "canonical_names": "torch's weight is a kernel, a scale or an embedding",
        "load_array": "Flax's layouts are the canonical ones already",
        "canonical_shape": "for the same reason",
    },
    "step.py": {
        "TrainState": "a pure step hands its state on; torch updates in place",
        "window_step": "torch, eager, picks a step's batch before it calls the step",
    },
}


def public_names(source: str) -> list[str]:
    """Public functions and classes of a module, as they stand from top to bottom."""
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, definitions) and not node.name.startswith("_")
    ]


def files(package):
    return sorted(p.relative_to(package).as_posix() for p in package.rglob("*.py"))


def test_the_twins_hold_the_same_files(root):
    assert files(root / "torch_impl") == files(root / "jax_impl")


def test_twin_files_define_the_same_names_in_the_same_order(root):
    for file in files(root / "torch_impl"):
        torch_names, jax_names = (
            [
                name
                for name in public_names((root / twin / file).read_text())
                if name not in ALONE.get(file, {})
            ]
            for twin in ("torch_impl", "jax_impl")
        )
        assert torch_names == jax_names, file


def test_every_exception_is_still_one(root):
    for file, names in ALONE.items():
        torch_names, jax_names = (
            set(public_names((root / twin / file).read_text()))
            for twin in ("torch_impl", "jax_impl")
        )
        assert names.keys() <= torch_names ^ jax_names, file


@pytest.mark.parametrize(
    "other",
    [
        "class Step: ...\ndef loss(): ...\n",  # another order
        "def loss(): ...\n",  # one missing
        "def loss(): ...\nclass Stride: ...\n",  # another name
    ],
)
def test_names_that_differ_are_noticed(other):
    twin = "def loss(): ...\ndef _helper(): ...\nclass Step: ...\n"
    assert public_names(twin) == ["loss", "Step"]
    assert public_names(twin) != public_names(other)
