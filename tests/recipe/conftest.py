"""Configs composed from `conf/` as the command line composes them."""

import functools
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from recipe.config import Config, to_config
from recipe.parity import ParityConfig


@pytest.fixture(scope="session")
def compose(root: Path) -> Callable[..., DictConfig]:
    """`compose("experiment=digits_cnn", "train.seed=1")`: what Hydra makes of it."""

    @functools.cache  # Hydra takes a twentieth of a second
    def compose(*overrides: str, schema: type[Config] = Config) -> DictConfig:
        ConfigStore.instance().store("schema", node=schema)
        name = "parity" if schema is ParityConfig else "config"
        with hydra.initialize_config_dir(str(root / "conf"), version_base="1.3"):
            return hydra.compose(name, list(overrides))

    return compose


@pytest.fixture(scope="session")
def config(root: Path, compose) -> Callable[..., Config]:
    """`config("experiment=digits_cnn", "train.seed=1")`, checked.

    Hydra chooses from the groups; single values are merged into its choice, which gives
    the same and is quicker.
    """
    groups = {folder.name for folder in (root / "conf").iterdir() if folder.is_dir()}

    def config(*overrides: str, schema: type[Config] = Config) -> Config:
        chosen = [o for o in overrides if o.lstrip("~").partition("=")[0] in groups]
        values = OmegaConf.from_dotlist([o for o in overrides if o not in chosen])
        merged = OmegaConf.merge(compose(*chosen, schema=schema), values)
        return to_config(merged, schema)

    return config
