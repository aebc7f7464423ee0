"""Sizes and seeds of tests with very many random inputs; `make fuzz` runs a hundred times as many as other runs."""

import os

INPUTS = int(os.environ.get("FUZZ_INPUTS", "10000"))
"""For all tests of one kind together: frames, or control inputs."""
SEED = int(os.environ.get("SEED", "1"))
"""`SEED=` and `FUZZ_INPUTS=` repeat a failed run."""


def share(part: int, parts: int) -> int:
    """The number of inputs of one of several tests that divide them."""
    return INPUTS // parts + (part < INPUTS % parts)


def failure(what: str, number: int, data: bytes) -> str:
    """Describe the input that failed, so that it can be tried again alone."""
    return f"{what}: input {number} with SEED={SEED} FUZZ_INPUTS={INPUTS}: bytes.fromhex({data.hex()!r})"
