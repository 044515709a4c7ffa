"""One twin of a custom model: its leaves, and on request its step 0.

    python -m launch.own_twin torch FOLDER [step] < config.yaml

Writes to FOLDER: the leaves as JSON, and, if they are those of shapes.py, the trace of
a step and the weights after it. Exit status 2 with one line for bad input. A separate
process, since it imports a framework.
"""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from data.dropout import epoch_keys
from recipe.config import Config, from_yaml
from recipe.dropout import dropout_layers, own_rates, rate_leaves
from recipe.errors import ConfigError
from recipe.leaves import Leaves
from recipe.own_model import errors_in_a_line
from recipe.pixels import pixel_affine
from recipe.weights import Weights, random_weights, weight_shapes
from record.trace import Trace, to_bytes, trace_file
from runtime.processes import Processes

LEAVES = "leaves.json"
AFTER = "after.safetensors"  # the weights after the step
Arrays = tuple[np.ndarray, ...]


def batch(config: Config) -> Arrays:
    """Random images with labels, and their normalisation."""
    generator = np.random.default_rng(1)
    size, classes = config.train.global_batch_size, config.data.classes
    shape = size, *config.data.image_shape
    images = generator.integers(256, size=shape, dtype=np.uint8)
    labels = generator.integers(classes, size=size) if classes else np.ones(size)
    return (
        images,
        labels.astype(np.int32 if classes else np.float64),
        *(pixel_affine(config)),
    )


def keys(config: Config) -> np.ndarray | None:
    """Keys of the batch's dropout masks at each layer; None without dropout."""
    layers, examples = dropout_layers(config), config.train.global_batch_size
    if not layers:
        return None
    return epoch_keys(config.train.seed, layers, 0, examples)


def in_torch(config: Config, weights: Weights, world: Any) -> tuple[Trace, Weights]:
    """The trace of a step, and the weights after its forward pass.

    Raises:
      ConfigError: if it draws random numbers, which JAX would draw differently.
    """
    import torch

    from torch_impl.model import build_model
    from torch_impl.parallel import place_batch, replicate
    from torch_impl.step import DeviceData, gather, loss_fn
    from torch_impl.trace import trace_step
    from torch_impl.weights import load_weights, save_weights

    model = build_model(config)
    load_weights(model, weights, world)
    data = DeviceData(*(replicate(array, world) for array in batch(config)))
    indices_B = place_batch(np.arange(config.train.global_batch_size), world)
    keys_BL = place_batch(keys(config), world)
    states = [torch.get_rng_state()]
    trace = trace_step(config, model, data, indices_B, None, keys_BL, None, 1, world)
    images, labels = gather(config, data, indices_B)
    states.append(torch.get_rng_state())
    with torch.no_grad():
        model.eval()
        evaluated = model(images).double().cpu().numpy()
        states.append(torch.get_rng_state())
        model.train()
        loss_fn(config, model, images, labels, keys_BL)  # moves running statistics
    drawn = [not torch.equal(*around) for around in pairwise(states)]
    if any(drawn):
        where = "evaluation is random: it" if drawn[1] else "the forward pass"
        raise ConfigError(
            f"torch_model.py: {where} draws from torch's generator, as F.dropout (in "
            "evaluation as well, unless given training=), nn.GRU(dropout=...) and "
            "torch.rand do; JAX draws other numbers. For dropout keep an nn.Dropout as "
            "an attribute of the module; remove other randomness"
        )
    return with_evaluation(trace, evaluated), save_weights(model, world)


def in_jax(config: Config, weights: Weights, world: Any) -> tuple[Trace, Weights]:
    """The trace of a step, and the weights after its forward pass."""
    import jax
    from flax import nnx

    from jax_impl.freeze import split_frozen
    from jax_impl.model import build_model
    from jax_impl.optim import build_optimizer
    from jax_impl.parallel import place_batch, place_state, replicate
    from jax_impl.step import DeviceData, TrainState, gather, loss_fn
    from jax_impl.trace import trace_step
    from jax_impl.weights import load_weights, save_weights

    graphdef, *states = load_weights(build_model(config), weights)
    params, statistics = (place_state(state, world) for state in states)
    data = DeviceData(*replicate(batch(config), world))
    indices_B = place_batch(np.arange(config.train.global_batch_size), world)
    keys_BL = place_batch(keys(config), world)
    trained, _ = split_frozen(config, params)
    optimizer_state = build_optimizer(config, params).init(trained)
    state = TrainState(params, statistics, optimizer_state, None)
    trace = trace_step(config, graphdef, state, data, indices_B, None, keys_BL, 1)

    @jax.jit
    def both(params: nnx.State, statistics: nnx.State, images, labels, keys_BL):
        model = nnx.merge(graphdef, params, statistics, copy=True)
        model.eval()
        given = config, graphdef, params, statistics, images, labels, keys_BL
        return model(images), loss_fn(*given)[1]

    images, labels = gather(config, data, indices_B)
    evaluated, moved = both(params, statistics, images, labels, keys_BL)
    trace = with_evaluation(trace, np.asarray(evaluated, np.float64))
    return trace, save_weights(params, moved, world)


def with_evaluation(trace: Trace, evaluated: np.ndarray) -> Trace:
    """The trace with the model's evaluation output as the last one."""
    return replace(trace, outputs={**trace.outputs, "evaluation": evaluated})


def world_of(framework: str, config: Config) -> Any:
    """Start this process's framework, and set the precision."""
    if framework == "torch":
        from torch_impl.parallel import start
        from torch_impl.precision import configure

        world = start(config, Processes())
        configure(config, world.device)
        return world
    import jax

    from jax_impl.parallel import start
    from jax_impl.precision import configure

    world = start(config, Processes())
    configure(config, jax.local_devices()[0])
    return world


def leaves_of(framework: str, config: Config) -> Leaves:
    """Canonical name -> canonical shape of a twin's leaves.

    For dropout layers their rates.
    """
    folder = str(config.model.folder)
    if framework == "torch":
        from torch_impl.model import build_own
        from torch_impl.own_dropout import held_rates
        from torch_impl.weights import leaf_shapes

        model = build_own(config, folder)
        return {**leaf_shapes(model), **rate_leaves(held_rates(model))}
    from jax_impl.model import build_own
    from jax_impl.own_dropout import held_rates
    from jax_impl.weights import leaf_shapes

    model = build_own(config, folder)
    return {**leaf_shapes(model), **rate_leaves(held_rates(model))}


def main(framework: str, folder: Path, step: bool) -> None:
    """Write to the folder what was requested."""
    config = from_yaml(sys.stdin.read())
    leaves = leaves_of(framework, config)
    (folder / LEAVES).write_text(json.dumps(leaves))
    listed = {**weight_shapes(config), **rate_leaves(own_rates(config))}
    if not step or leaves != listed:
        return
    take = {"torch": in_torch, "jax": in_jax}[framework]
    world = world_of(framework, config)
    trace, after = take(config, random_weights(config), world)
    trace_file(folder, 1).write_bytes(to_bytes(trace))
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(array) for name, array in after.items()},
        folder / AFTER,
    )


if __name__ == "__main__":
    framework, place, *more = sys.argv[1:]
    with errors_in_a_line(f"{framework}_model.py"):
        main(framework, Path(place), step=more == ["step"])
