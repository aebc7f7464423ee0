#!/usr/bin/env python3
"""Places calls through an RTPproxy, sends their media, and judges what arrives; `--help` says more."""

import sys
from pathlib import Path

try:
    import click  # noqa: F401
    import numpy  # noqa: F401
    import scapy  # noqa: F401
except ModuleNotFoundError as missing:
    sys.exit(
        f"traffic.py: {missing.name} is missing for {sys.executable}: run `make .venv/test.ok` in the repository and"
        " start this with .venv/bin/python, or install click, numpy and scapy"
    )

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generator.command import main

if __name__ == "__main__":
    main()
