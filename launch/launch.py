"""Stands in for the package `launch` in a script of this folder, and makes way for it.

`python launch/jax.py` puts `launch/` first on `sys.path`, where `jax.py` and `trace.py`
would hide the modules of those names, and leaves the checkout out. So each script
begins with `import launch`. Python then finds this file, which puts the checkout in the
folder's place and imports the package instead. Everywhere else `import launch` is the
package at once, and nothing imports this file.
"""

import importlib
import sys
from pathlib import Path

if __name__ == "launch":
    HERE = Path(__file__).resolve().parent
    others = [place for place in sys.path if Path(place).resolve() != HERE]
    sys.path[:] = [str(HERE.parent), *others]
    del sys.modules["launch"]
    importlib.import_module("launch")
