"""Run the tests with random input over and over, with new input each time, and show what fails.

    python -m tests.fuzz [--seconds SECONDS] [--inputs NUMBER] [ARGUMENT...]

These are the tests of Hypothesis, and those marked `seeded`, which take the environment variables SEED and FUZZ_INPUTS:
every round gives a million frames to the programs and a million inputs to the control protocol. Further arguments go to
pytest. An input that fails a test is printed as the line to put above that test, `@example(...)`; of
a test made of steps (a state machine), as the steps; of a seeded one, as its seed, and the input if it is one of many.
The exit status is 1 then.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

INPUTS = 1_000_000
_HEAD = r"(?:Falsifying example|Failing test case):"
_ARGUMENTS = re.compile(_HEAD + r" (?:\w+\.)*\w+\((.*?)^\s*\)", re.DOTALL | re.MULTILINE)
_STEPS = re.compile(_HEAD + r"[^\n(]*\n(.*?\.teardown\(\))", re.DOTALL)
_INPUT = re.compile(r"(\S.*: input \d+ with SEED=.*)")
_COMMENT = re.compile(r"\s*# or any other generated value$", re.MULTILINE)
_INTERNAL = re.compile(r"^self=.*?,\s*")


def run_once(seed: int, inputs: int, arguments: list[str]) -> Iterator[tuple[str, str]]:
    """Run all of them with input of this seed; the failed tests, and what pytest says of each."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        options = ["-n", "auto", "-q", "-m", "(hypothesis or seeded) and not alone", "--junitxml", str(report)]
        options += ["--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}"]
        environment = {**os.environ, "SEED": str(seed), "FUZZ_INPUTS": str(inputs)}
        status = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments], env=environment, check=False
        ).returncode
        if status not in (0, 1):
            raise SystemExit(status)
        for case in ET.parse(report).iter("testcase"):
            for failure in (*case.findall("failure"), *case.findall("error")):
                yield f"{case.get('classname')}::{case.get('name')}", failure.text or ""


def lines_to_add(text: str) -> list[str]:
    """What to add to a test so that it tries again what failed; `text` is pytest's account of the failure."""
    text = "\n".join(re.sub(r"^E  ?", "", line) for line in text.splitlines())
    steps = [f"as a test of its own:\n{found}" for found in _STEPS.findall(text)]
    examples = []
    for found in _ARGUMENTS.findall(text):
        values = " ".join(_COMMENT.sub("", found).split()).rstrip(",")
        examples.append(f"@example({_INTERNAL.sub('', values)})")
    return steps + examples + _INPUT.findall(text)


def main() -> int:
    """Go on until the time is over; 1 if anything failed."""
    parser = argparse.ArgumentParser(description="Run tests with random input, with new input each time.")
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long (default: an hour)")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="frames, and control inputs, of each round")
    options, arguments = parser.parse_known_args()
    end, seeds, found = time.monotonic() + options.seconds, 0, {}
    while seeds == 0 or time.monotonic() < end:
        seed = random.SystemRandom().randrange(1, 1 << 32)
        seeds += 1
        print(f"\nSEED={seed}", flush=True)
        for name, text in run_once(seed, options.inputs, arguments):
            found.setdefault(name, (seed, text))
    print(f"\n{seeds} rounds, {len(found)} tests failed")
    for name, (seed, text) in found.items():
        print(f"\n{name} with SEED={seed}")
        for line in lines_to_add(text) or [text]:
            print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
