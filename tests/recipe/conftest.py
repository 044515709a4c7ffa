"""Configs composed from `conf/` as the command line composes them."""

from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from recipe.config import Config, ParityConfig, to_config


@pytest.fixture(scope="session")
def compose(root: Path) -> Callable[..., DictConfig]:
    """`compose("experiment=digits_cnn", "train.seed=1")`, before Duet's own checks."""

    def compose(*overrides: str, schema: type[Config] = Config) -> DictConfig:
        ConfigStore.instance().store("schema", node=schema)
        name = "parity" if schema is ParityConfig else "config"
        with hydra.initialize_config_dir(str(root / "conf"), version_base="1.3"):
            return hydra.compose(name, list(overrides))

    return compose


@pytest.fixture(scope="session")
def config(compose) -> Callable[..., Config]:
    """`config("experiment=digits_cnn", "train.seed=1")`, checked."""

    def config(*overrides: str, schema: type[Config] = Config) -> Config:
        return to_config(compose(*overrides, schema=schema), schema)

    return config
