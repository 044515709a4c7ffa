"""The config group of federated averaging, and what it cannot be combined with.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS 2017 (arXiv 1602.05629).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from recipe.errors import ConfigError
from recipe.experiment import NORMALISED
from recipe.fields import at_least, one_of, positive

if TYPE_CHECKING:  # which imports this
    from recipe.config import Config

SPLITS = ("dirichlet", "iid", "shards")
WEIGHTINGS = ("examples", "uniform")


@dataclass(kw_only=True)
class FederatedConfig:
    """Federated averaging: a step is a round of clients; `recipe/clients.py`."""

    clients: int = 100  # K: parts that the training set is divided into
    # C, in (0, 1]: max(1, round(C K)) clients are drawn for each round.
    fraction: float = 0.1
    local_epochs: int = 5  # E: passes of a client over its examples in a round
    # B: examples of a client's step, the last of a pass may have fewer; `null`: all of
    # the client's, McMahan's infinity.
    local_batch: int | None = 10
    # `iid`, equal parts at random; `shards`, sorted by label and cut into
    # `shards_per_client` pieces for each client; `dirichlet`, each class divided by
    # proportions from Dir(`alpha`).
    split: str = "iid"
    shards_per_client: int = 2  # shards: how many pieces each client gets
    alpha: float = 0.5  # dirichlet; the smaller, the fewer classes a client has
    # How a round's clients count in the mean: by their `examples`, or `uniform`.
    weighting: str = "examples"

    def __post_init__(self) -> None:
        at_least("federated.clients", self.clients, 1)
        if not 0 < self.fraction <= 1:
            raise ConfigError(
                f"federated.fraction must lie in (0, 1], got {self.fraction}; the "
                "C = 0 of McMahan et al., one client in each round, is "
                f"1/federated.clients = {1 / self.clients:g}"
            )
        at_least("federated.local_epochs", self.local_epochs, 1)
        at_least("federated.local_batch", self.local_batch, 1)
        one_of("federated.split", self.split, SPLITS)
        at_least("federated.shards_per_client", self.shards_per_client, 1)
        positive("federated.alpha", self.alpha)
        one_of("federated.weighting", self.weighting, WEIGHTINGS)
        for key, split in ("shards_per_client", "shards"), ("alpha", "dirichlet"):
            given = getattr(self, key)
            if self.split != split and given != getattr(FederatedConfig, key):
                raise ConfigError(
                    f"federated.{key}={given} has no meaning with federated.split="
                    f"{self.split}; leave it out, or use federated.split={split}"
                )


def check_federated(config: "Config") -> None:
    """Refuse what a federated run gives no meaning to.

    Raises:
      ConfigError: naming the key, and what to do instead.
    """
    if config.federated is None:
        return
    norm = config.model.norm
    has_norms = config.model.name in (*NORMALISED, "custom")
    refused = {
        f"parallel={config.parallel.name}": (
            config.parallel.name != "dp",
            "whole clients are dealt to the devices, so use parallel=dp",
        ),
        "parallel.grad_sync=false": (
            not config.parallel.grad_sync,
            "clients exchange no gradients, so leave it out",
        ),
        "optim.update=false": (
            not config.optim.update,
            "clients would send back what they were sent, so leave it out",
        ),
        f"optim.ema_decay={config.optim.ema_decay}": (
            config.optim.ema_decay is not None,
            "the mean over clients is what is evaluated, so set it to null",
        ),
        f"train.grad_accum_steps={config.train.grad_accum_steps}": (
            config.train.grad_accum_steps > 1,
            "a client's batch is computed at once, so lower federated.local_batch",
        ),
        f"train.trace={config.train.trace}": (
            config.train.trace is not None,
            "a round has many steps, so trace the same model with federated=none",
        ),
        "precision=fp16": (
            config.precision.name == "fp16",
            "each client would scale and skip by itself, so use precision=bf16",
        ),
        f"compile={str(config.compile).lower()}": (
            bool(config.compile),
            "it would compile for one batch size, clients have several: leave it out",
        ),
        "model.norm.sync=true": (
            has_norms and norm.name == "batch" and norm.sync,
            "clients do not share statistics within a step, so set it to false "
            "(running statistics are averaged with the weights), or use "
            "model.norm.name=group",
        ),
    }
    for key, (given, instead) in refused.items():
        if given:
            raise ConfigError(f"{key} with federated averaging: {instead}")


def of_batch_size(config: "Config", size: int) -> "Config":
    """The config of an ordinary step on so many examples, as a client's local step."""
    train = replace(config.train, global_batch_size=size)
    return replace(config, train=train)
