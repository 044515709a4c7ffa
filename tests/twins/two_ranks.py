"""Every case's steps in PyTorch, on two ranks that torchrun starts.

    torchrun --nproc-per-node=2 tests/twins/two_ranks.py FOLDER

Rank 0 leaves FOLDER/NAME.npz: the metrics of each step, and the weights at the end.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

from recipe.config import Config  # noqa: E402
from recipe.execution import Strategy  # noqa: E402
from recipe.weights import Weights  # noqa: E402
from runtime.processes import from_environment  # noqa: E402
from tests.twins.steps import (  # noqa: E402
    EXAMPLES,
    Arrays,
    config_of,
    random_arrays,
    random_weights,
    torch_steps,
)
from torch_impl.parallel import start, stop  # noqa: E402
from torch_impl.precision import configure  # noqa: E402

OUTLIER = EXAMPLES - 1  # the example whose gradient is more than fp16 holds
OVERFLOW = 7  # the step, from 0, that meets it
NORMED = [
    *("model=custom", f"model.folder={ROOT}/tests/twins/planted", "precision=fp64"),
    *("data=synthetic", "data.image_shape=[8,8,1]", "train.grad_accum_steps=2"),
    *("data.augment.pad_crop=2", "data.augment.flip=true"),
]
HALF = [
    *("experiment=linear_line", "model=mlp", "precision=fp16"),
    *("precision.loss_scale.initial=8", "precision.loss_scale.interval=5"),
    *("optim.momentum=0.9", "train.grad_accum_steps=2"),
]
CLIPPED = [
    *("experiment=digits_cnn", "precision=fp16", "train.grad_accum_steps=2"),
    *("precision.loss_scale.initial=1024", "optim.clip_norm=0.5"),
]
DROPPING = ["precision=fp64", "model.dropout=0.3", "train.grad_accum_steps=2"]
OWN_DROPPING = [
    *("model=custom", f"model.folder={ROOT}/tests/twins/planted_dropout"),
    *("precision=fp64", "data=synthetic", "data.image_shape=[8,8,1]"),
    "train.grad_accum_steps=2",
]
VIT = [
    *("experiment=cifar10_vit_tiny", "data=synthetic", "task.image_shape=[8,8,3]"),
    *("model.width=0.125", "model.blocks=2"),
]
FROZEN = ["train.freeze=[stem,norm]", "optim.lr_factors={head: 3}"]
FROZEN += ["optim.clip_norm=0.5", "optim.weight_decay=0.1"]
CASES = {
    "normed": NORMED,
    "one micro-batch": [k for k in NORMED if "accum" not in k],
    "adamw fsdp": [*NORMED, "optim=adamw", "optim.eps=1e-3", "parallel=fsdp"],
    "normed fsdp": [*NORMED, "parallel=fsdp"],
    "local norms": [*NORMED, "model.norm.sync=false"],
    "local norms fsdp": [*NORMED, "model.norm.sync=false", "parallel=fsdp"],
    "averaged": [*NORMED, "optim.ema_decay=0.7"],
    "averaged fsdp": [*NORMED, "optim.ema_decay=0.7", "parallel=fsdp"],
    "averaged local norms": [*NORMED, "optim.ema_decay=0.7", "model.norm.sync=false"],
    "frozen": [*NORMED, *FROZEN, "optim.ema_decay=0.7"],
    "frozen fsdp": [*NORMED, *FROZEN, "optim=adamw", "parallel=fsdp"],
    "frozen blocks fsdp": [
        *(*VIT, "precision=fp64", "train.freeze=[patches,position,block.0]"),
        *("optim.lr_factors={block: 0.5}", "parallel=fsdp"),
    ],
    "fp16": HALF,
    "fp16 frozen": [*HALF, "train.freeze=[dense.0]"],
    "fp16 fsdp": [*HALF, "parallel=fsdp"],
    "fp16 averaged fsdp": [*HALF, "optim.ema_decay=0.7", "parallel=fsdp"],
    "clipped": CLIPPED,
    "clipped fsdp": [*CLIPPED, "parallel=fsdp"],
    "dropping": ["experiment=digits_cnn", *DROPPING, "model.hidden=[48,20]"],
    "dropping fsdp": [*VIT, *DROPPING, "parallel=fsdp"],
    "own dropping": OWN_DROPPING,
    "own dropping fsdp": [*OWN_DROPPING, "parallel=fsdp"],
}


def case(
    name: str, *overrides: str
) -> tuple[Config, Weights, Arrays, np.ndarray, float]:
    """A case's config, weights, images with labels, batches and learning rate."""
    config = config_of(*CASES[name], *overrides)
    weights = random_weights(config)
    images, labels = random_arrays(config)
    steps = 20 if CASES[name][: len(HALF)] == HALF else 4
    rows = np.random.default_rng(2).integers(OUTLIER, size=(steps, 8), dtype=np.int32)
    if steps == 20:
        labels[OUTLIER] = 1e6
        rows[OVERFLOW, 3] = OUTLIER
    if config.precision.name != "fp64":
        weights = {name: array.astype(np.float32) for name, array in weights.items()}
    return config, weights, (images, labels), rows, 1e-3 if steps == 20 else 0.1


def main(folder: Path, *names: str) -> None:
    processes = from_environment(os.environ)
    world = start(case("normed")[0], processes)
    for name in names:
        config, *given = case(name)
        configure(config, world.device)
        own = replace(world, strategy=Strategy(config.parallel.name))
        seen, weights = torch_steps(config, *given, own)
        if world.rank == 0:
            np.savez(folder / f"{name}.npz", seen=seen, **weights)
    stop(world)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
