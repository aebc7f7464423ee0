"""Tests of the tools of vm-test/, which are found by their folder, the last on the path: they are no package."""

import sys
from pathlib import Path

FOLDER = str(Path(__file__).parents[2] / "vm-test")
if FOLDER not in sys.path:
    sys.path.append(FOLDER)
