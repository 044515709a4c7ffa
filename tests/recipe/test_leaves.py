"""The leaves of a custom model's twins: all that differ, and what to do."""

import pytest

from recipe.leaves import way_out, wrong_leaves

SHAPES = {"a.kernel": (2, 3), "a.bias": (3,)}


def test_nothing_is_wrong_where_all_three_agree():
    assert wrong_leaves(SHAPES, SHAPES, SHAPES) == []


def test_every_wrong_leaf_is_reported_those_of_one_twin_first():
    torch = SHAPES | {"z.bias": (1,)}
    jax = SHAPES | {"a.kernel": (3, 2), "drop.rngs.count": ()}
    told = wrong_leaves(torch, jax, SHAPES | {"left.over": (4,)})
    assert [line.partition(" ")[0] for line in told] == [
        *("z.bias", "drop.rngs.count", "a.kernel", "left.over")
    ]
    assert told[0].startswith("z.bias is in one twin alone: (1,) in torch_model.py, no")
    assert "(2, 3) in torch_model.py, (3, 2) in jax_model.py" in told[2]


def test_a_leaf_that_shapes_py_lacks_is_reported_though_the_twins_agree():
    (told,) = wrong_leaves(SHAPES, SHAPES, {"a.kernel": (2, 3)})
    assert told == (
        "a.bias is (3,) in torch_model.py, (3,) in jax_model.py, nothing in shapes.py"
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("noise.rngs.count", "keep no nnx.Rngs in the model"),
        ("rngs.dropout.key", "keep no nnx.Rngs in the model"),
        ("block.0.drop.rate", "dropout_rates(config) of shapes.py"),
        ("net.layers.1.rate", "nnx.Sequential"),
        ("rnn.rngs.key", "rngs=False and initial_carry="),
        ("norm.num_batches_tracked", "leave it out of shapes.py"),
        ("attention.in_proj_weight", "query, key, value and out"),
        ("rnn.dense_h.bias", "bias_i= and bias_h="),
        ("rnn.cell.hf.kernel", "nnx.OptimizedLSTMCell"),
        ("rnn.weight_ih_l0_reverse", "turned round"),
        ("net.layers.0.kernel", "nnx.Sequential"),
        ("net.2.kernel", "nn.Sequential also counts its nn.ReLU"),
        ("norm.running_mean", "have mean and var"),
        ("norm.mean", "have mean and var"),
        ("norm.weight", "kernel, scale (of a norm) or embedding"),
    ],
)
def test_a_name_that_is_met_once_is_answered_by_what_to_do(name, told):
    assert told in way_out(name)


@pytest.mark.parametrize("name", ["stem.kernel", "head.bias", "token.embedding"])
def test_a_plain_name_needs_no_word(name):
    assert way_out(name) == ""
