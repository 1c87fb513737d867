"""A plugin of pytest: nothing that the package has cached outlives the start of a run.

mutmut runs the tests of a mutant in a fork of a process that has run them all, so that what is
asked once a process (`sparseae.model.contract`) would be known from before the mutant.
"""

import sys


def pytest_sessionstart() -> None:
    modules = [module for name, module in sys.modules.items() if name.startswith("sparseae")]
    for module in modules:
        for value in list(vars(module).values()):
            clear = getattr(value, "cache_clear", None)
            if callable(clear):
                clear()
