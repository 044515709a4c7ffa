"""The optimizers: their settings, and the state that each keeps per parameter.

`optim.py` of either twin builds them, and maps the state's names to its framework's.
"""

import math
from dataclasses import dataclass
from typing import Any

from recipe.errors import ConfigError
from recipe.fields import at_least, one_of


@dataclass(frozen=True)
class Optimizer:
    """What the recipe knows of an optimizer.

    Args:
      settings: keys of `OptimConfig` that are its own.
      state: names of the arrays that it keeps beside each trained parameter, as
        checkpoints have them.
      counts_updates: whether its update depends on their number; checkpoints keep that
        as `UPDATES`. It does not include skipped steps.
    """

    settings: tuple[str, ...]
    state: tuple[str, ...]
    counts_updates: bool = False


UPDATES = "optimizer_steps"
OPTIMIZERS = {
    "adamw": Optimizer(
        settings=("beta1", "beta2", "eps"),
        state=("adam.m", "adam.v"),
        counts_updates=True,
    ),
    "sgd": Optimizer(settings=("momentum", "nesterov"), state=("momentum",)),
}


@dataclass(kw_only=True)
class OptimConfig:
    """SGD or AdamW, both as torch writes them; `optim.py` of either twin has them.

    SGD's decay enters the gradient before momentum (coupled), AdamW's is multiplied by
    the learning rate alone (decoupled). `lr_factors` is Any: Hydra lets no typed
    dictionary grow.
    """

    name: str
    peak_lr: float  # for the global batch; never rescaled
    momentum: float = 0.0  # sgd
    nesterov: bool = False  # sgd
    beta1: float = 0.9  # adamw
    beta2: float = 0.999  # adamw
    eps: float = 1e-8  # adamw; added to the root of the corrected second moment
    weight_decay: float = 0.0  # sgd: enters the gradient; adamw: decoupled
    decay: str = "kernels"  # which parameters decay: `kernels`, or `all` of them
    # Factors on the learning rate of layers, by canonical prefix: `{stem: 0.1, head:
    # 10}`. The longest prefix counts; 1 where there is none. It also multiplies AdamW's
    # decay.
    lr_factors: Any = None
    # Maximum 2-norm of the global gradient; `null` does not clip.
    clip_norm: float | None = None
    # Decay of an exponential moving average of the weights, which is then what is
    # evaluated and saved in `final.safetensors`; the training is the same. `null`:
    # none.
    ema_decay: float | None = None
    # false: gradients and their norm are computed but not applied, to time the same
    # step without the optimizer. It trains nothing, and parity refuses it.
    update: bool = True

    def __post_init__(self) -> None:
        one_of("optim.name", self.name, tuple(OPTIMIZERS))
        if not 0 < self.peak_lr < math.inf:
            raise ConfigError(
                f"optim.peak_lr must be finite and > 0, got {self.peak_lr}"
            )
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"optim.momentum must lie in [0, 1), got {self.momentum}")
        if self.nesterov and self.momentum == 0:
            raise ConfigError(
                "optim.nesterov=true needs optim.momentum > 0, got 0; "
                "set optim.momentum=0.9 or optim.nesterov=false"
            )
        for key, beta in ("beta1", self.beta1), ("beta2", self.beta2):
            if not 0 <= beta < 1:
                raise ConfigError(f"optim.{key} must lie in [0, 1), got {beta}")
        if not 0 < self.eps < math.inf:
            raise ConfigError(f"optim.eps must be finite and > 0, got {self.eps}")
        self._check_factors()
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise ConfigError(
                f"optim.clip_norm must be finite and > 0, got {self.clip_norm}; "
                "null does not clip"
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(
                f"optim.ema_decay must lie in (0, 1), got {self.ema_decay}; null keeps "
                "no average of the weights"
            )
        for of, optimizer in OPTIMIZERS.items():
            for key in optimizer.settings:
                given, default = getattr(self, key), getattr(OptimConfig, key)
                if of != self.name and given != default:
                    raise ConfigError(
                        f"optim.{key}={given} has no meaning with optim={self.name}; "
                        f"leave it out, or use optim={of}"
                    )
        at_least("optim.weight_decay", self.weight_decay, 0)
        one_of("optim.decay", self.decay, ("all", "kernels"))

    def _check_factors(self) -> None:
        given = {} if self.lr_factors is None else self.lr_factors
        if not isinstance(given, dict):
            raise ConfigError(
                f"optim.lr_factors={given} must be prefixes with factors, such as "
                "{stem: 0.1, head: 10}, or null"
            )
        for prefix, factor in given.items():
            if type(factor) not in (int, float) or not 0 < factor < math.inf:
                raise ConfigError(
                    f"optim.lr_factors gives {prefix} the factor {factor}, which must "
                    f"be finite and > 0; to keep a layer as it is, add it to "
                    "train.freeze"
                )
        self.lr_factors = {str(p): float(f) for p, f in given.items()} or None


def optimizer_state(optim: OptimConfig) -> tuple[str, ...]:
    """Names of the arrays that the optimizer keeps beside each trained parameter.

    >>> optimizer_state(OptimConfig(name="adamw", peak_lr=0.001))
    ('adam.m', 'adam.v')
    >>> optimizer_state(OptimConfig(name="sgd", peak_lr=0.1))  # without momentum
    ()
    """
    if optim.name == "sgd" and not optim.momentum:
        return ()
    return OPTIMIZERS[optim.name].state
