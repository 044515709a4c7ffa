"""A training script in which what $DUET_FAULT says goes wrong.

torchrun --standalone --nproc-per-node=2 tests/faults/faulty.py launch/jax.py key=value
"""

import os
import runpy
import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    import_module(f"{'jax' if script.endswith('jax.py') else 'torch'}_impl.train")
    exec(os.environ["DUET_FAULT"], {})
    runpy.run_path(script, run_name="__main__")
