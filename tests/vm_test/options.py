"""The options of the commands of vm-test/, for the tests of their pages."""

from generator.command import main as traffic
from lab.runner import main as run

TRAFFIC_OPTIONS = {flag for parameter in traffic.params for flag in parameter.opts}
OF_COMMANDS = {
    "traffic": TRAFFIC_OPTIONS,
    "vm-test": {flag for parameter in run.params for flag in parameter.opts} | {"--help"},
}
"""By page."""
