"""Runs the tests of a folder or a file for `tidewheel test`: with pytest where it is there, else with unittest.

Ends with 0 if all passed, 1 if one failed, 5 if there was none.
"""

import importlib.util
import os
import sys

path = sys.argv[1]
sys.argv = ["tidewheel test"]
folder = path if os.path.isdir(path) else os.path.dirname(path)
# Tests import the code beside them, or from the root of the project, as in a shell that stands there.
root = folder
while os.path.dirname(root) != root and not os.path.isfile(os.path.join(root, "pyproject.toml")):
    root = os.path.dirname(root)
if not os.path.isfile(os.path.join(root, "pyproject.toml")):
    root = folder
sys.path[0] = root
if folder not in sys.path:
    sys.path.insert(1, folder)
os.chdir(root)
if importlib.util.find_spec("pytest") is not None:
    import pytest

    sys.exit(int(pytest.main([path])))

import unittest

loader = unittest.TestLoader()
if path != folder:
    suite = loader.discover(folder, pattern=os.path.basename(path))
else:
    suite = unittest.TestSuite()
    for here, inner, files in os.walk(path):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in ("__pycache__", "node_modules", "venv"))
        if any(name.startswith("test") and name.endswith(".py") for name in files):
            if here not in sys.path:
                sys.path.insert(1, here)
            package = os.path.isfile(os.path.join(here, "__init__.py"))
            # Discovery goes into packages by itself.
            suite.addTests(loader.discover(here, pattern="test*.py", top_level_dir=root if package and here != root else here))
            inner[:] = [name for name in inner if not os.path.isfile(os.path.join(here, name, "__init__.py"))]
if suite.countTestCases() == 0:
    sys.exit(5)
sys.exit(0 if unittest.TextTestRunner(verbosity=1).run(suite).wasSuccessful() else 1)
