"""Which axis of an array is sharded over devices, if any."""

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
    """Refuse `parallel=fsdp` on devices that no parameter can be split over.

    JAX replicates a parameter that does not divide, PyTorch pads it; if none divides,
    JAX would shard nothing, so both refuse.

    Raises:
      ConfigError: quoting the largest parameter and the nearest valid world sizes.
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
