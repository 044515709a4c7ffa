"""Federated clients: (seed) -> who has which examples; (seed, round) -> who trains.

A client's order in a pass is that of an ordinary run's epoch, restricted to its own
examples. So one client that has all of them trains as an ordinary run does.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from recipe.batch_plan import BatchPlan, epoch_order
from recipe.config import Config
from recipe.errors import ConfigError
from recipe.federated import FederatedConfig
from recipe.rng import keyed_generator

Members = list[Int[np.ndarray, " examples"]]


def plan_of(config: Config, labels: np.ndarray) -> BatchPlan:
    """The plan that a config asks for: of batches, or of federated rounds.

    Args:
      labels: of the training examples.

    Raises:
      ConfigError: as `BatchPlan.of` and `partition` do.
    """
    if config.federated is None:
        return BatchPlan.of(config, len(labels))
    train = config.train
    rounds = train.epochs if train.steps is None else train.steps
    assert rounds is not None  # TrainConfig refuses both being null
    return RoundPlan(
        seed=train.seed,
        examples=len(labels),
        global_batch_size=train.global_batch_size,
        steps=rounds,
        perturb_seed=train.perturb_seed,
        federated=config.federated,
        members=partition(config.federated, labels, train.seed),
    )


def partition(federated: FederatedConfig, labels: np.ndarray, seed: int) -> Members:
    """The examples of each client, ascending; every example belongs to one client.

    iid: a random permutation, cut into parts that differ by one example at most.
    shards: the examples sorted by label, cut likewise into K x `shards_per_client`
    shards, of which each client gets so many at random. dirichlet: each class's
    examples in random order, cut by proportions drawn from Dir(alpha, ..., alpha).

    Raises:
      ConfigError: if a client would have no example.

    Source: McMahan et al. 2017 for iid and shards; Yurochkin et al., Bayesian
    Nonparametric Federated Learning, ICML 2019, for dirichlet.

    >>> split = FederatedConfig(clients=2, split="shards", shards_per_client=1)
    >>> [part.tolist() for part in partition(split, np.array([1, 0, 1, 0]), seed=0)]
    [[1, 3], [0, 2]]
    """
    clients, examples = federated.clients, len(labels)
    generator = keyed_generator(seed, "clients", federated.split)
    if federated.split == "iid":
        parts = np.array_split(generator.permutation(examples), clients)
    elif federated.split == "shards":
        each = federated.shards_per_client
        if clients * each > examples:
            raise ConfigError(
                f"federated.clients={clients} x federated.shards_per_client={each} are "
                f"more shards than the {examples} training examples; lower one of them"
            )
        shards = np.array_split(np.argsort(labels, kind="stable"), clients * each)
        dealt = generator.permutation(clients * each).reshape(clients, each)
        parts = [np.concatenate([shards[i] for i in row]) for row in dealt]
    else:
        parts = _by_proportions(federated, labels, generator)
    if empty := [number for number, part in enumerate(parts) if not len(part)]:
        more = "a larger federated.alpha, " if federated.split == "dirichlet" else ""
        raise ConfigError(
            f"federated.clients={clients} with federated.split={federated.split} over "
            f"{examples} training examples leaves {len(empty)} clients without any, "
            f"the first is client {empty[0]}; use fewer clients, {more}or another "
            "train.seed"
        )
    return [np.sort(part).astype(np.int32) for part in parts]


def _by_proportions(
    federated: FederatedConfig, labels: np.ndarray, generator: np.random.Generator
) -> Members:
    """Each class, divided over the clients by proportions of its own."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise ConfigError(
            "federated.split=dirichlet divides classes, and this data has none; use "
            "federated.split=iid or federated.split=shards"
        )
    parts: list[list[np.ndarray]] = [[] for _ in range(federated.clients)]
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        proportions = generator.dirichlet(np.full(federated.clients, federated.alpha))
        cuts = np.rint(np.cumsum(proportions)[:-1] * len(members)).astype(int)
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    return [np.concatenate(pieces) for pieces in parts]


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundPlan(BatchPlan):
    """The rounds of a federated run; each is a step, and counts as an epoch.

    Of `BatchPlan`'s fields `global_batch_size` is that of evaluations alone.

    Args:
      federated: the config's group.
      members: the examples of each client.
    """

    federated: FederatedConfig
    members: Members

    @property
    def steps_per_epoch(self) -> int:
        return 1

    def chosen(self, step: int) -> Int[np.ndarray, " clients"]:
        """The clients of a round, from 0, those with most examples first."""
        clients = len(self.members)
        count = max(1, round(self.federated.fraction * clients))
        generator = keyed_generator(self.seed, "chosen", step)
        drawn = np.sort(generator.choice(clients, count, replace=False))
        return drawn[np.argsort(-self.sizes[drawn], kind="stable")]

    def dealt(self, step: int, device: int, devices: int) -> list[int]:
        """A device's clients of a round: every `devices`-th of the chosen ones."""
        return self.chosen(step)[device::devices].tolist()

    def weight(self, step: int, client: int) -> float:
        """A client's weight in the mean of a round; they add up to 1.

        n_k / (sum of n_j over the round's clients), or 1 / (number of clients).

        Source: McMahan et al. 2017, algorithm 1, in the version of 2023, whose erratum
        divides by the examples of the round's clients instead of all.
        """
        chosen = self.chosen(step)
        if self.federated.weighting == "uniform":
            return 1 / len(chosen)
        return float(self.sizes[client] / self.sizes[chosen].sum())

    @cached_property
    def sizes(self) -> Int[np.ndarray, " clients"]:
        """Examples of each client."""
        return np.array([len(part) for part in self.members])

    def passes(self, step: int) -> range:
        """The passes of a round over its clients' examples, numbered over the run."""
        each = self.federated.local_epochs
        return range(step * each, (step + 1) * each)

    def local_batches(
        self, client: int, number: int
    ) -> list[Int[np.ndarray, " local_batch"]]:
        """A client's batches of a pass, all its examples once; int32.

        Args:
          number: of the pass, as in `passes`.
        """
        members = self.members[client]
        position = np.empty(self.examples, np.int32)
        position[epoch_order(self.seed, number, self.examples)] = np.arange(
            self.examples, dtype=np.int32
        )
        order = members[np.argsort(position[members])]
        batch = self.federated.local_batch or len(order)
        batches = np.split(order, range(batch, len(order), batch))
        if self.perturb_seed:
            generator = keyed_generator(self.perturb_seed, "rows", number, client)
            batches = [generator.permutation(rows) for rows in batches]
        return batches

    @cached_property
    def most_batches(self) -> dict[int, int]:
        """Size of a local batch -> the most that a client has of it in a round."""
        most: dict[int, int] = {}
        for examples in self.sizes.tolist():
            batch = self.federated.local_batch or examples
            whole, rest = divmod(examples, batch)
            for size, count in (batch, whole), (rest, 1):
                if size and count:
                    passes = self.federated.local_epochs * count
                    most[size] = max(most.get(size, 0), passes)
        return dict(sorted(most.items(), reverse=True))

    def examples_in(self, steps: range) -> int:
        """Examples that rounds train on, each as often as a client passes over it."""
        return sum(map(self._examples, steps))

    def _examples(self, step: int) -> int:
        if step not in self._counted:
            examples = self.sizes[self.chosen(step)].sum()
            self._counted[step] = int(examples) * self.federated.local_epochs
        return self._counted[step]

    @cached_property
    def _counted(self) -> dict[int, int]:
        return {}
