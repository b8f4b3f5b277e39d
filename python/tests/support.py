"""Puts the package's source on the path, so that the tests run with nothing installed. Imported first by every test module."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
SRC = os.path.join(ROOT, "src")
for _path in (HERE, SRC):
    if _path not in sys.path:
        sys.path.insert(0, _path)
