"""An exported file's logits, from a process without Duet."""

from pathlib import Path

from launch.export_files import run_child

RUNTIMES = Path(__file__).with_name("runtimes.py")
# What a file may not need: such an import fails.
DUET = ("recipe", "runtime", "data", "record", "report", "launch", "torch_impl")
OUTSIDE = (
    f"import sys, runpy; sys.modules.update(dict.fromkeys({(*DUET, 'jax_impl')})); "
    f"runpy.run_path({str(RUNTIMES)!r}, run_name='__main__')"
)


def outside(format: str, model: Path, images: Path, *out: Path) -> None:
    """Compute a file's logits in a process that can import nothing of Duet.

    Args:
      out: where logits.npy goes, and, if it is to be measured, where that goes.
    """
    places = [str(path.absolute()) for path in (model, images, *out)]
    # -P: not even the folder that it runs in is searched for modules.
    run_child(["-P", "-c", OUTSIDE, format, *places], model.absolute().parent)
