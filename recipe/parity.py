"""A parity check: what it trains, or which finished runs it compares."""

from dataclasses import dataclass, field, replace
from typing import Any

from recipe.config import Config, ablated
from recipe.errors import ConfigError
from recipe.fields import at_least, one_of


@dataclass(kw_only=True)
class ParityConfig(Config):
    """A parity check: the run above, in both frameworks, at each world size.

    Or, with `trace`, one step of both, layer by layer; or, with `a` and `b`, two
    finished runs, without any training.
    """

    # Devices of the runs; 1 is always included.
    world_sizes: Any = field(default_factory=lambda: [1, 2])
    # A step, from 1: both twins are trained up to it, on one device each, and it is
    # compared layer by layer; the first layer that differs is named.
    trace: int | None = None
    # A run folder to compare with `b`, of any framework and machine, by the fixed
    # bounds of the looser precision. Nothing is trained, and no other key but `run.dir`
    # may be given.
    a: str | None = None
    b: str | None = None  # the other run folder
    # Perturbed runs of each framework, in precisions where rounding matters.
    controls: int = 4
    # How JAX takes N devices: `devices` (one process with N of them), `processes` (N
    # processes), or both.
    jax_layouts: list[str] = field(default_factory=lambda: ["devices", "processes"])
    timeout_seconds: int = 1800  # of each training

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.world_sizes  # of any type, so that errors are in one line
        if not isinstance(sizes, list) or not sizes or not all(map(_counts, sizes)):
            raise ConfigError(
                "world_sizes must be a list of positive whole numbers, got "
                f"{sizes}; write 'world_sizes=[1,2,4]'"
            )
        for layout in self.jax_layouts:
            one_of("jax_layouts", layout, ("devices", "processes"))
        if not self.jax_layouts:
            raise ConfigError("jax_layouts is empty; use devices, processes or both")
        at_least("controls", self.controls, 1)
        at_least("timeout_seconds", self.timeout_seconds, 1)
        if self.devices is not None:
            raise ConfigError("parity takes world_sizes=[...] instead of devices")
        if self.train.perturb_seed:
            raise ConfigError(
                "parity perturbs its own controls; leave train.perturb_seed at 0"
            )
        if self.train.trace:
            raise ConfigError("parity takes trace=STEP instead of train.trace")
        if missing := ablated(self):
            raise ConfigError(
                f"parity compares trainings, which need {' and '.join(missing)}; leave "
                "it at true"
            )
        if self.run.resume != "auto" or self.run.resume_anyway:
            raise ConfigError(
                "parity trains all its runs from the start; leave run.resume at auto "
                "and "
                "run.resume_anyway at false"
            )
        # What a single run's trace refuses is refused here, before any starts.
        self.train = replace(self.train, trace=self.trace)
        if bool(self.a) != bool(self.b) or "" in (self.a, self.b):
            missing = "a" if not self.a else "b"
            raise ConfigError(
                f"a= and b= are two run folders to compare; {missing}= is missing: "
                "give both, as in a=runs/torch b=runs/jax"
            )
        if self.a is not None and self.trace:
            raise ConfigError(
                "a= and b= compare finished runs, trace= trains; give one or the other"
            )


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
