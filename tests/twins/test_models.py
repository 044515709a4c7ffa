"""The models are the published ones, and their FLOPs are counted rightly."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from jax_impl import model as jax_model
from jax_impl import step as jax_step
from jax_impl import weights as jax_weights
from recipe.architecture import RESNETS
from recipe.errors import ConfigError
from recipe.flops import training_flops
from recipe.layouts import from_layout, to_layout
from report.parity.differences import leaf_differences, relative_difference
from tests.conftest import exhaustive_but
from tests.twins.conftest import TORCH
from tests.twins.steps import random_weights
from torch_impl import model as torch_model
from torch_impl import step as torch_step
from torch_impl import weights as torch_weights

SMALL = ["data=synthetic", "task.image_shape=[32,32,3]", "precision=fp64"]
RESIDUAL = ["resnet9", "resnet18", "resnet50"]


class Narrow(ResNet):
    """torchvision's own, of an eighth of the channels."""

    def __init__(self, config):
        block = {1: BasicBlock, 4: Bottleneck}[RESNETS[config.model.name].expansion]
        super().__init__(block, list(RESNETS[config.model.name].blocks))
        small = config.model.stem == "cifar"
        form = (3, 1, 1) if small else (7, 2, 3)
        self.conv1 = nn.Conv2d(3, 8, *form, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        if small:
            self.maxpool = nn.Identity()
        self.fc = nn.Linear(64 * block.expansion, config.data.classes)

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        if planes == 64:
            self.inplanes = 8
        return super()._make_layer(block, planes // 8, blocks, stride, dilate)


def canonical_after(config, model, weights):
    """Gradients and running statistics of torchvision's, by canonical name."""
    gradients = {n: p.grad.numpy() for n, p in model.named_parameters()}
    buffers = {n: b.numpy() for n, b in model.named_buffers()}
    return from_layout(config, gradients | buffers)


SHALLOW = (2, 1, 1, 1)  # blocks of each stage: more are more of the same to compile
NETWORKS = [("resnet18", "cifar"), ("resnet18", "imagenet"), ("resnet50", "imagenet")]
KEPT = [("resnet18", "cifar", SHALLOW), ("resnet50", "imagenet", SHALLOW)]


@pytest.mark.parametrize(
    ("name", "stem", "blocks"),
    exhaustive_but(
        KEPT, [*KEPT, *((name, stem, RESNETS[name].blocks) for name, stem in NETWORKS)]
    ),
)
def test_resnets_are_torchvisions_in_outputs_gradients_and_statistics(
    name, stem, blocks, make_config, worlds, monkeypatch
):
    monkeypatch.setitem(RESNETS, name, replace(RESNETS[name], blocks=blocks))
    model = [f"model={name}", f"model.stem={stem}", "model.width=0.125"]
    config = make_config(*SMALL, *model, "train.global_batch_size=6")
    weights = random_weights(config)
    generator = np.random.default_rng(1)
    images = generator.normal(size=(6, 32, 32, 3))
    labels = generator.integers(10, size=6, dtype=np.int32)
    nchw = torch.tensor(images).permute(0, 3, 1, 2)

    reference = Narrow(config).double()
    arrays = to_layout(config, weights, "torchvision")
    loaded = reference.load_state_dict(
        {n: torch.tensor(a) for n, a in arrays.items()}, strict=False
    )
    assert not loaded.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in loaded.missing_keys)
    outputs = reference.eval()(nchw).detach().numpy()
    right = torch_step.loss_fn(config, reference.train(), nchw, torch.tensor(labels))
    right.backward()
    after = canonical_after(config, reference, weights)

    model = torch_model.build_model(config)
    torch_weights.load_weights(model, weights, TORCH)
    found = model.eval()(nchw).detach().numpy()
    loss = torch_step.loss_fn(config, model.train(), nchw, torch.tensor(labels))
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    assert relative_difference(found, outputs).max() <= 1e-10
    assert float(loss.detach()) == pytest.approx(float(right.detach()), rel=1e-12)
    moved = torch_weights.save_weights(model, TORCH)
    assert max(leaf_differences(moved, after).values()) <= 1e-10

    graphdef, *states = jax_weights.load_weights(jax_model.build_model(config), weights)

    @jax.jit
    def step(params, statistics):
        plain = nnx.merge(graphdef, params, statistics)
        plain.eval()
        losses = jax.value_and_grad(jax_step.loss_fn, argnums=2, has_aux=True)
        return plain(images), losses(
            config, graphdef, params, statistics, images, jnp.asarray(labels)
        )

    found, ((loss, statistics), gradient) = step(*states)
    assert relative_difference(np.asarray(found), outputs).max() <= 1e-10
    assert float(loss) == pytest.approx(float(right.detach()), rel=1e-12)
    moved = jax_weights.save_weights(gradient, statistics, worlds[1])
    assert max(leaf_differences(moved, after).values()) <= 1e-10


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"head.bias": (1,)}, r"head.bias is \(10,\) in the model and \(1,\)"),
        ({"tail.bias": (1,)}, r"tail.bias is nothing in the model and \(1,\)"),
        ({"stem.kernel": None}, r"stem.kernel is \(3, 3, 1, 8\) .* and nothing in"),
    ],
)
def test_a_model_that_holds_other_leaves_is_refused_by_both(make_config, change, told):
    planted = Path(__file__).parent / "planted"
    config = make_config(
        *("model=custom", f"model.folder={planted}", "data=synthetic"),
        "data.image_shape=[8,8,1]",
    )
    weights = random_weights(config)
    for name, shape in change.items():
        if shape is None:
            del weights[name]
        else:
            weights[name] = np.zeros(shape)
    with pytest.raises(ConfigError, match=told):
        torch_weights.load_weights(torch_model.build_model(config), weights, TORCH)
    with pytest.raises(ConfigError, match=told):
        jax_weights.load_weights(jax_model.build_model(config), weights)


@pytest.mark.parametrize("name", [*RESIDUAL, "vit_tiny"])
def test_gradients_of_the_deep_models_are_those_of_finite_differences(
    name, make_config
):
    config = make_config(
        *(*SMALL, f"model={name}", "model.width=0.0625", "train.global_batch_size=6")
    )
    generator = np.random.default_rng(1)
    images = torch.tensor(generator.normal(size=(6, 3, 32, 32)))
    labels = torch.tensor(generator.integers(10, size=6))
    model = torch_model.build_model(config)
    torch_weights.load_weights(model, random_weights(config), TORCH)
    torch_step.loss_fn(config, model, images, labels).backward()
    parameters = list(model.parameters())
    for _ in range(3):
        direction = [torch.tensor(generator.normal(size=p.shape)) for p in parameters]
        slope = sum(
            float((p.grad * d).sum())
            for p, d in zip(parameters, direction, strict=True)
        )
        h, ends = 1e-9, []  # within which hardly a ReLU changes its mind
        with torch.no_grad():
            for step in h, -2 * h:
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(d, alpha=step)
                ends.append(float(torch_step.loss_fn(config, model, images, labels)))
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=h)
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize(
    "recipe",
    [
        *(["model=mlp"], ["model=cnn"], ["experiment=imagenet_like_resnet50"]),
        *([*SMALL, f"model={name}"] for name in ("resnet9", "resnet18", "vit_tiny")),
    ],
    ids=" ".join,
)
def test_flops_are_those_that_torch_counts(recipe, make_config):
    config = make_config(*recipe)
    model = torch_model.build_model(config)
    height, width, channels = config.data.image_shape
    images = torch.empty(
        *(2, channels, height, width),
        dtype=next(model.parameters()).dtype,
        device="meta",  # shapes are enough
    )
    with FlopCounterMode(display=False) as both:
        model(images).sum().backward()
    assert both.get_total_flops() == 2 * training_flops(config)
