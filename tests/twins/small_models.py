"""Every model, small enough for what is asked of its form and not of its numbers."""

from dataclasses import replace

import pytest

from recipe.architecture import RESNETS

SMALL = ["data=synthetic", "task.image_shape=[8,8,3]", "train.global_batch_size=8"]
NARROW = [*SMALL, "model.width=0.0625"]
CNN = ["data=synthetic", "task.image_shape=[16,16,1]", "train.global_batch_size=8"]
MODELS = {
    "mlp": [*SMALL, "model=mlp"],
    "cnn": [*CNN, "model=cnn"],
    "resnet9": [*NARROW, "model=resnet9"],
    "resnet18": [*NARROW, "model=resnet18"],
    "resnet50": [*NARROW, "model=resnet50"],
    "vit_tiny": [*NARROW, "model=vit_tiny", "model.blocks=1"],
}


def one_block_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """More are more of the same, and minutes to compile."""
    for name, form in RESNETS.items():
        monkeypatch.setitem(RESNETS, name, replace(form, blocks=(1, 1, 1, 1)))
