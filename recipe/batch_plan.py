"""Which examples each device sees at each step: (seed, epoch, step, rank) -> indices.

One permutation per epoch; global batch t takes its rows [tB, (t+1)B) and rank r the
r-th contiguous 1/W of them, so the set of examples in a step does not depend on the
world size. A batch computed in several micro-batches is split into these first, and
each of them over ranks, so that its statistics do not depend on the world size either.
Training drops an epoch's incomplete last batch; evaluation pads it with masked rows, so
that every test example counts exactly once at every world size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int

from recipe.config import Config
from recipe.errors import ConfigError
from recipe.local_rounds import check_length
from recipe.rng import keyed_generator


@lru_cache(
    maxsize=2
)  # a step needs its own epoch only; two avoid recomputing at the boundary
def epoch_order(seed: int, epoch: int, examples: int) -> Int[np.ndarray, " examples"]:
    """An epoch's order of examples, a permutation of `range(examples)`, dtype int32."""
    order = keyed_generator(seed, "order", epoch).permutation(examples).astype(np.int32)
    order.setflags(write=False)
    return order


def rank_slice(rows: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The rank's contiguous 1/world_size of a global batch's rows."""
    share = len(rows) // world_size
    return rows[rank * share : (rank + 1) * share]


@dataclass(frozen=True)
class Window:
    """Steps between two synchronisations.

    Args:
      steps: optimizer steps, from 0.
      epoch: of its last step, from 0.
      evaluates: whether an evaluation follows.
      saves: whether a checkpoint does, by the count of steps.
      following: the next window's steps; empty at the end of the run.
    """

    steps: range
    epoch: int
    evaluates: bool
    saves: bool = False
    following: range = range(0)


@dataclass(frozen=True)
class BatchPlan:
    """The training batches of a run.

    Args:
      seed: `train.seed`.
      examples: training examples in the dataset.
      global_batch_size: examples per optimizer step over all devices.
      steps: optimizer steps of the whole run.
      grad_accum_steps: micro-batches that a global batch is computed in.
      trace: the step, from 1, that is traced and is the last; None: no trace.
      perturb_seed: of a parity check's control: each micro-batch has its examples in
        another order, so that the same step is rounded differently; 0: none.
    """

    seed: int
    examples: int
    global_batch_size: int
    steps: int
    grad_accum_steps: int = 1
    trace: int | None = None
    perturb_seed: int = 0

    @classmethod
    def of(cls, config: Config, examples: int) -> "BatchPlan":
        """The plan that a config asks for; `train.steps` wins over `train.epochs`.

        Raises:
          ConfigError: if the dataset is smaller than one global batch, or the run ends
            before the step to trace, or before the first round of local SGD.
        """
        train = config.train
        if examples < train.global_batch_size:
            raise ConfigError(
                f"train.global_batch_size={train.global_batch_size} is larger than the "
                f"training set of {examples} examples; take at most {examples}"
            )
        steps = train.steps
        if steps is None:
            assert train.epochs is not None  # TrainConfig refuses both being null
            steps = train.epochs * (examples // train.global_batch_size)
        check_length(config.parallel, steps)
        if train.trace and train.trace > steps:
            raise ConfigError(
                f"train.trace={train.trace} is beyond the last step, {steps}; "
                f"trace one of 1 to {steps}, or raise train.epochs"
            )
        return cls(
            train.seed,
            examples,
            train.global_batch_size,
            steps,
            train.grad_accum_steps,
            train.trace,
            train.perturb_seed,
        )

    @property
    def last(self) -> int:
        """Number of steps to take."""
        return self.trace or self.steps

    @property
    def steps_per_epoch(self) -> int:
        return self.examples // self.global_batch_size

    def epoch(self, step: int) -> int:
        """The epoch that `step` belongs to, both from 0."""
        return step // self.steps_per_epoch

    def examples_in(self, steps: range) -> int:
        """Examples that these steps train on, over all devices."""
        return len(steps) * self.global_batch_size

    def indices(
        self, step: int, rank: int = 0, world_size: int = 1
    ) -> Int[np.ndarray, " local_batch"]:
        """The examples that `rank` trains on at step `step`, both from 0; int32."""
        return self._shares(self._batch(step), rank, world_size).reshape(-1)

    def micro_batches(
        self, step: int, rank: int = 0, world_size: int = 1
    ) -> Int[np.ndarray, "grad_accum_steps micro_batch"]:
        """The same in training order, a row for each micro-batch."""
        batch = self._batch(step)
        if self.perturb_seed:
            generator = keyed_generator(self.perturb_seed, "rows", step)
            batch = batch[:, generator.permutation(batch.shape[1])]
        return self._shares(batch, rank, world_size)

    def _batch(self, step: int) -> Int[np.ndarray, "grad_accum_steps micro_batch"]:
        """The global batch."""
        order = epoch_order(self.seed, self.epoch(step), self.examples)
        row = step % self.steps_per_epoch * self.global_batch_size
        return order[row : row + self.global_batch_size].reshape(
            self.grad_accum_steps, -1
        )

    def _shares(
        self,
        batch: Int[np.ndarray, "grad_accum_steps micro_batch"],
        rank: int,
        world_size: int,
    ) -> Int[np.ndarray, "grad_accum_steps local_micro_batch"]:
        return rank_slice(batch.T, rank, world_size).T

    def windows(
        self,
        log_every_steps: int,
        evaluate_every_epochs: int,
        save_every_steps: int | None = None,
        done: int = 0,
    ) -> list[Window]:
        """The run as windows of at most `log_every_steps`, none across a saved step.

        Nor across an epoch's end, unless `evaluate_every_epochs` is 0 and an epoch has
        several steps. Between those windows are as equal as possible, since their rates
        are compared. The last window evaluates; so does the last of every
        `evaluate_every_epochs`-th epoch, unless that is 0.

        Args:
          save_every_steps: optimizer steps between two checkpoints; None: no window
            saves by the count of steps.
          done: optimizer steps that a resumed run has already done; the windows after
            them are those of an uninterrupted run.
        """
        windows, every = [], evaluate_every_epochs
        # A federated round is an epoch of one step, and always a window.
        epochs = every > 0 or self.steps_per_epoch == 1
        strides = [self.steps_per_epoch] * epochs + [save_every_steps or self.last]
        for start, stop in pairwise(self._cuts(strides)):
            ended, into = divmod(stop, self.steps_per_epoch)
            due = every > 0 and into == 0 and ended % every == 0
            count = -(-(stop - start) // log_every_steps)
            edges = [start + (stop - start) * n // count for n in range(count + 1)]
            for first, last in pairwise(edges):
                evaluates = last == self.last or (last == stop and due)
                saves = bool(save_every_steps) and last % save_every_steps == 0
                if last > done:
                    steps = range(max(first, done), last)
                    epoch = self.epoch(last - 1)
                    windows.append(Window(steps, epoch, evaluates, saves))
        following = [*(window.steps for window in windows[1:]), range(0)]
        return [
            replace(window, following=steps)
            for window, steps in zip(windows, following, strict=False)
        ]

    def _cuts(self, strides: list[int]) -> list[int]:
        """Steps that windows may not span: multiples of strides, and the end."""
        cuts = {step for stride in strides for step in range(0, self.last, stride)}
        return sorted(cuts | {self.last})


def evaluation_batches(
    examples: int, global_batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Int[np.ndarray, " local_batch"], Bool[np.ndarray, " local_batch"]]]:
    """Every example once, in order, as equal batches of (indices, mask).

    Rows whose mask is False are padding: they repeat example 0 and count for nothing.
    """
    for start in range(0, examples, global_batch_size):
        rows = np.arange(start, start + global_batch_size, dtype=np.int32)
        mask = rows < examples
        indices = np.where(mask, rows, 0).astype(np.int32)
        yield rank_slice(indices, rank, world_size), rank_slice(mask, rank, world_size)
