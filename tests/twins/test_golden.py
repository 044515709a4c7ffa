"""A refactor leaves the losses alone; `python -m tests.twins.golden` writes them."""

import json

import numpy as np
import pytest

from tests.conftest import exhaustive_but
from tests.twins.golden import FILE, MODELS, OWN, RATE, batches, recipe, weights

GOLDEN = json.loads(FILE.read_text())
# ResNet-9 has the deeper ones' layers, and compiles in seconds less; of one's own
# models one stands for the others, which test_own_layers.py trains in both.
KEPT = "linear", "mlp", "cnn", "resnet9", "vit_tiny", "attention"


def test_every_model_has_golden_losses(root):
    named = {path.stem for path in (root / "conf" / "model").glob("*.yaml")}
    assert named - {"custom"} == MODELS.keys()
    assert {*MODELS, *OWN} == GOLDEN.keys()


@pytest.mark.parametrize("name", exhaustive_but(KEPT, GOLDEN))
def test_both_twins_have_the_losses_that_are_kept(name, twins, tmp_path):
    config = recipe(name, tmp_path)
    for twin in twins(config, weights(name, config)):
        losses = twin(batches(), rate=RATE)[0][:, 0]
        np.testing.assert_allclose(losses, GOLDEN[name], rtol=1e-12)


def test_another_rate_has_other_losses(twins, tmp_path):
    config = recipe("mlp", tmp_path)
    losses = twins(config, weights("mlp", config))[0](batches(), rate=2 * RATE)[0]
    assert not np.allclose(losses[:, 0], GOLDEN["mlp"], rtol=1e-12)
