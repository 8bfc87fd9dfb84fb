"""The programs in `benchmarks/`, `docs/` and `tools/` as modules, for tests of what they compute."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def script(name: str, folder: str = "benchmarks") -> ModuleType:
    """``FOLDER/NAME.py``."""
    specification = importlib.util.spec_from_file_location(f"{folder}_{name}", ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # where dataclasses look for it
    specification.loader.exec_module(module)
    return module
