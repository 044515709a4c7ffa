"""Which axis of an array is split over devices, where the array is split at all."""

from recipe.config import Config
from recipe.errors import ConfigError
from recipe.weights import is_trained, weight_shapes
from runtime.processes import Processes
from runtime.world import world_size


def sharded_axis(shape: tuple[int, ...], devices: int) -> int | None:
    """The longest axis that the devices divide, the first of equals; None: no axis.

    >>> sharded_axis((5, 5, 16, 32), 4), sharded_axis((10,), 4)
    (3, None)
    """
    divisible = [axis for axis, length in enumerate(shape) if length % devices == 0]
    return max(divisible, key=lambda axis: shape[axis], default=None)


def check_shards(config: Config, processes: Processes) -> None:
    """Refuse `parallel=fsdp` over devices that no parameter can be split over.

    JAX keeps a parameter whole that does not divide, PyTorch pads it; where none does,
    nothing would be sharded in one of them, and both refuse.

    Raises:
      ConfigError: quoting the largest parameter and the world sizes that would do.
    """
    if config.parallel.name != "fsdp":
        return
    devices = world_size(config, processes)
    shapes = {n: s for n, s in weight_shapes(config).items() if is_trained(n)}
    if all(sharded_axis(shape, devices) is None for shape in shapes.values()):
        axes = {length for shape in shapes.values() for length in shape}
        largest = max(axes)
        fitting = [n for n in range(1, largest + 1) if any(a % n == 0 for a in axes)]
        nearest = [
            *[n for n in fitting if n < devices][-1:],
            *[n for n in fitting if n > devices][:1],
        ]
        raise ConfigError(
            f"parallel=fsdp cannot split any parameter over world_size={devices}: "
            f"none has a dimension that it divides, the largest is {largest}; nearest "
            f"world sizes that do: {', '.join(map(str, nearest))}; or use parallel=dp"
        )
