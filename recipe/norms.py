"""Requirements of batch normalisation: whose examples, and how many values."""

from recipe.config import Config
from recipe.errors import ConfigError
from recipe.experiment import NORMALISED


def has_local_norm(config: Config) -> bool:
    """Whether each device normalises over its own examples.

    A resumed run must then have as many devices as the one it continues. A federated
    client normalises over its own, on whichever device it is.
    """
    norm = config.model.norm
    of_batch = config.model.name in NORMALISED and norm.name == "batch"
    return of_batch and not norm.sync and config.federated is None


def check_statistics(values: int) -> None:
    """Refuse batch normalisation over a single value, which has no variance.

    Args:
      values: of each channel, examples x pixels that the statistics are taken over.

    Raises:
      ConfigError: if a channel has only one.
    """
    if values == 1:
        raise ConfigError(
            "batch normalisation over one value per channel has no variance: use a "
            "larger train.global_batch_size, fewer micro-batches or devices, "
            "model.norm.sync=true, or model.norm.name=group"
        )
