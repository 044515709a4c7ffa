"""The table of renamed keys and options."""

from recipe.config import known_keys
from recipe.experiment import MODELS
from recipe.renamed import FIELDS, KEYS, OPTIONS
from recipe.study import StudyConfig


def test_every_new_name_is_a_key_of_the_same_group_and_no_old_name_is_one():
    known = known_keys(StudyConfig)
    for old, new in KEYS.items():
        assert old not in known and new in known
        assert old.partition(".")[0] == new.partition(".")[0]
    assert len({*FIELDS.values()}) == len(FIELDS)  # or it had no inverse


def test_every_new_option_is_a_model_and_no_old_one_is():
    for old, new in OPTIONS["model"].items():
        assert old not in MODELS and new in MODELS
