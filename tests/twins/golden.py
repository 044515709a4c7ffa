"""Five steps of every model in fp64, whose losses a refactor has to leave alone.

    python -m tests.twins.golden    # updates golden.json, by PyTorch's twin

Update them only if a commit is meant to change numbers, and says why.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from recipe.config import Config
from recipe.weights import Weights, initial_weights
from tests.conftest import ROOT
from tests.launch.pages import write_files
from tests.twins.steps import (
    EXAMPLES,
    config_of,
    random_arrays,
    random_weights,
    torch_steps,
)

FILE = Path(__file__).with_name("golden.json")
RATE = 0.01
SMALL = [
    *("data=synthetic", "task.image_shape=[16,16,3]", "task.classes=10"),
    *("model.width=0.0625", "data.augment.pad_crop=2", "data.augment.flip=true"),
]
MODELS = {
    "linear": ["experiment=linear_line"],
    "mlp": ["experiment=digits_mlp", "model.hidden=[16]", "model.dropout=0.3"],
    "cnn": ["experiment=digits_cnn", "model.channels=[4,8]", "model.hidden=[16]"],
    "resnet9": ["experiment=cifar10_resnet9", *SMALL],
    "resnet18": ["experiment=cifar10_resnet18", *SMALL],
    # On 16x16 its last norms would be of eight numbers.
    "resnet50": [
        *("experiment=imagenet_like_resnet50", *SMALL, "task.image_shape=[64,64,3]")
    ],
    "vit_tiny": ["experiment=cifar10_vit_tiny", *SMALL, "model.blocks=2"],
}
# Pairs that docs/own-layers.md shows.
OWN = ("attention", "batchnorm", "embedding", "gru", "lstm")


def recipe(name: str, folder: Path) -> Config:
    """The config of a model of MODELS or OWN.

    Args:
      folder: where the files of a model of OWN are written.
    """
    keys = MODELS.get(name, [])
    if name in OWN:
        write_files((ROOT / "docs" / "own-layers.md").read_text(), folder)
        own = "model=custom", f"model.folder={folder / name}"
        keys = ["experiment=digits_cnn", *own]
    return config_of(*keys, "precision=fp64", "train.global_batch_size=8")


def weights(name: str, config: Config) -> Weights:
    """To start from. Of ResNet-50 those of a run: from random ones so deep and narrow a
    network magnifies rounding, and two right twins are 1e-7 apart at step 5.
    """
    return (initial_weights if name == "resnet50" else random_weights)(config)


def batches() -> np.ndarray:
    """The same examples for every model, shape (steps, examples)."""
    return np.random.default_rng(2).integers(EXAMPLES, size=(5, 8), dtype=np.int32)


def main() -> None:
    import torch

    from torch_impl.parallel import World

    world, losses = World(0, 1, 1, torch.device("cpu")), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in (*MODELS, *OWN):
            config = recipe(name, Path(folder))
            given = weights(name, config), random_arrays(config), batches()
            seen, _ = torch_steps(config, *given, RATE, world)
            losses[name] = seen[:, 0].tolist()
    FILE.write_text(json.dumps(losses, indent=1) + "\n")
    print(f"wrote {FILE}", file=sys.stderr)


if __name__ == "__main__":
    main()
