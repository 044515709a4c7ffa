"""Stands in for the package `launch` in this folder's scripts, and then imports it.

`python launch/jax.py` puts `launch/` first on `sys.path`, where `jax.py` and `trace.py`
would hide the modules of those names, but not the checkout. So each script starts with
`import launch`. Python then finds this file, which replaces the folder on `sys.path` by
the checkout and imports the package instead. Everywhere else `import launch` finds the
package directly, and nothing imports this file.
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
