"""Compares the leaves of a custom model's twins, and those of its shapes.py.

Also says what to do about names that only one framework has.
"""

import re
from collections.abc import Mapping

# The shape of a leaf; for a dropout layer, which has none, its rate.
Leaves = Mapping[str, tuple[int, ...] | float]

# The end of a name that is in one twin alone, or not in shapes.py -> what to do. The
# first match counts.
WAYS_OUT = {
    r"(rnn|gru|lstm)\w*\.rngs\.(count|key)": "an nnx.RNN's generator, which is "
    "not used: give it rngs=False and initial_carry=, or take GRU or LSTM of "
    "jax_impl/recurrent.py",
    r"rngs\.(\w+\.)?(count|key)": "a generator's state, which is not a weight. Duet "
    "never uses a framework's generator, since torch and JAX draw different numbers: "
    "keep no nnx.Rngs in the model, as nnx.Dropout needs none; give an nnx.RNN "
    "rngs=False and initial_carry=",
    r"num_batches_tracked": "torch's counter, no weight: leave it out of shapes.py",
    r"(weight|bias)_[ih]h_l\d+_reverse": "a bidirectional layer: write it as two, one "
    "of them on the sequence turned round",
    r"weight_hr_l\d+": "an LSTM's projection: write it as a dense layer after it",
    r"in_proj_(weight|bias)": "nn.MultiheadAttention keeps queries, keys and values in "
    "one array, Flax in three: take four dense layers, query, key, value and out, as "
    "docs/own-layers.md does",
    r"dense_[ih]\.bias": "torch's nn.GRU and nn.LSTM have two biases for each gate, "
    "Flax's GRUCell one (dense_i) and its OptimizedLSTMCell one (dense_h): take GRU or "
    "LSTM of torch_impl/recurrent.py or jax_impl/recurrent.py for the other twin, with "
    "bias_i= and bias_h= as this one has them. For cells in a loop of one's own "
    "docs/own-layers.md adds the other bias to Flax's",
    r"(ii|if_|ig|io|hi|hf|hg|ho)\.(kernel|bias)": "a gate of nnx.LSTMCell: take "
    "nnx.OptimizedLSTMCell, the same function with the gates in one kernel, as "
    "nn.LSTM has them",
    r"layers\.\d+\.\w+": "nnx.Sequential keeps its modules under `layers`: take an "
    "nnx.List and call them in turn, or name torch's nn.Sequential `layers` within a "
    "module of that name. nn.Sequential also counts functions such as nn.ReLU",
    r"rate": "a dropout layer: an nn.Dropout and an nnx.Dropout of one name, which "
    "dropout_rates(config) of shapes.py gives with its rate; docs/own-layers.md shows "
    "one",
    r"\d+\.\w+": "places in a list: an nn.Sequential also counts its nn.ReLU, an "
    "nnx.List of layers alone does not; torch's nn.ModuleList counts as nnx.List does",
    r"(running_)?(mean|var)": "running statistics: nn.BatchNorm2d and "
    "BatchNorm of either layers.py have mean and var, with "
    "track_running_stats=False neither",
    r"weight": "in shapes.py `weight` is called kernel, scale (of a norm) or embedding",
}


def way_out(name: str) -> str:
    """What to do about a leaf that is missing somewhere; empty if unknown.

    >>> way_out("norm.num_batches_tracked")
    " (torch's counter, no weight: leave it out of shapes.py)"
    >>> way_out("stem.bias")
    ''
    """
    for pattern, advice in WAYS_OUT.items():
        if re.search(rf"(^|\.)({pattern})$", name):
            return f" ({advice})"
    return ""


def wrong_leaves(torch: Leaves, jax: Leaves, listed: Leaves) -> list[str]:
    """Every leaf that differs between the twins and shapes.py, a line for each.

    Leaves in one twin alone come first, then other shapes, then leaves that shapes.py
    lacks or has in excess.

    >>> wrong_leaves({"a.b": (1,)}, {"a.b": (2,)}, {"a.b": (1,)})
    ['a.b is (1,) in torch_model.py, (2,) in jax_model.py, (1,) in shapes.py']
    """
    alone, other, unlisted = [], [], []
    for name in dict.fromkeys([*torch, *jax, *listed]):
        in_torch, in_jax, in_shapes = torch.get(name), jax.get(name), listed.get(name)
        if in_torch == in_jax == in_shapes:
            continue
        shapes = ", ".join(
            f"{'nothing' if shape is None else shape} in {file}"
            for shape, file in (
                (in_torch, "torch_model.py"),
                (in_jax, "jax_model.py"),
                (in_shapes, "shapes.py"),
            )
        )
        if (in_torch is None) != (in_jax is None):
            alone.append(f"{name} is in one twin alone: {shapes}{way_out(name)}")
        elif in_torch is not None and in_shapes is not None:
            other.append(f"{name} is {shapes}")
        else:
            unlisted.append(f"{name} is {shapes}{way_out(name)}")
    return alone + other + unlisted
