"""The command `vm-test/run`: builds images, then runs the tests with each kernel in namespaces of their own."""

import datetime
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from lab import enclosure, report, roots
from lab.cache import Cache, default_directory
from lab.kernels import Kernel, KernelError, choose, read_kernels
from lab.machine import accelerator, missing_tools
from lab.progress import say

HERE = Path(__file__).parents[1]
PROJECT = HERE.parent
SLOWNESS = {"kvm": 1.0, "tcg": 6.0}
"""How many times as long as on a machine with KVM anything may take."""
REPORT_HELP = "For results and logs. [default: vm-report, in the project]"
REPORT = PROJECT / "vm-report"
DIRECTORY = click.Path(file_okay=False, path_type=Path)
KERNEL_HELP = "A kernel of vm-test/kernels, or the path of a bzImage. Any number. [default: all of vm-test/kernels]"
LIMIT_S = {"kvm": 300.0, "tcg": 1800.0}
"""For all tests with one kernel. A machine that is emulated on two processors needs ten minutes."""


@dataclass(frozen=True)
class Wish:
    """What to do with each kernel."""

    only: str | None
    short: bool
    shell: bool
    keep: bool

    @property
    def arguments(self) -> list[str]:
        """For pytest."""
        flags = {"--short": self.short, "--keep": self.keep}
        return [*(["-k", self.only] if self.only else []), *(flag for flag, is_wanted in flags.items() if is_wanted)]

    @property
    def is_interactive(self) -> bool:
        return self.shell or self.keep


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--kernel", "wanted", multiple=True, metavar="NAME", help=KERNEL_HELP)
@click.option("--only", metavar="TEST", help="Only tests whose name matches, as pytest's -k.")
@click.option("--short", is_flag=True, help="A handful of calls and few tests inside: three minutes under emulation.")
@click.option("--shell", is_flag=True, help="Run no test: start a relay, and give a root shell in the machine.")
@click.option("--keep", is_flag=True, help="After the tests, give a root shell in the machine before it ends.")
@click.option(
    "--report", "directory", type=DIRECTORY, default=REPORT, help=f"For results and logs. [default: {REPORT.name}]"
)
@click.option("--publish", is_flag=True, help="Write the table of kernels in docs/install.md.")
def main(wanted: tuple[str, ...], directory: Path, publish: bool, **wish: Any) -> None:
    """Test rtpproxy as a whole gateway: real drivers, stock kernels, calls from outside.

    Builds Debian 12 with rtpproxy installed by its own commands, boots it with each kernel in QEMU, and sends it calls
    with vm-test/traffic.py. Uses KVM where it can, and emulation elsewhere.
    Images are kept in ~/.cache/rtpproxy-vm-test (VM_TEST_CACHE). Exit status: 0 all passed, 1 something
    failed, 2 it could not be run.
    """
    what = Wish(**wish)
    if missing := missing_tools():
        packages = " ".join(missing)
        raise click.UsageError(f"not installed: {packages}. `make vm-test` installs it, or: apt-get install {packages}")
    try:
        kernels = choose(read_kernels((HERE / "kernels").read_text()), wanted)
    except KernelError as error:
        raise click.UsageError(str(error)) from None
    if what.is_interactive and (len(kernels) != 1 or not sys.stdin.isatty()):
        raise click.UsageError("a shell needs a terminal, and one kernel: name it by --kernel")
    if publish and (what.only or what.short or what.shell):
        raise click.UsageError("--publish needs whole runs: leave out --only, --short and --shell")
    say(f"QEMU with {accelerator().upper()}; results in {directory}")
    results = [_build_and_run(kernel, directory / kernel.name, what) for kernel in kernels]
    if what.shell and not any(result.error for result in results):
        return
    report.write_junit(directory, results)
    click.echo(report.table(results))
    if not all(result.is_good for result in results):
        sys.exit(1)
    if publish:
        report.publish(PROJECT / "docs" / "install.md", results, datetime.date.today())


def _build_and_run(kernel: Kernel, directory: Path, wish: Wish) -> report.Result:
    """Do what is wished with one kernel; a machine that cannot be built is a result, too."""
    with Cache(default_directory()) as cache:
        try:
            image = roots.build(cache, kernel)
        except roots.BuildError as error:
            say(f"{kernel.name}: {error}")
            return report.Result(kernel.name, kernel.origin, error=str(error).splitlines()[0])
        return _run(kernel, image, directory, wish)


def _run(kernel: Kernel, image: roots.Image, directory: Path, wish: Wish) -> report.Result:
    """Run the tests with one kernel, or a shell."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    tree = directory / "tree.tar"
    roots.tree_tar(tree)
    slowness = SLOWNESS[accelerator()] * float(os.environ.get("SLOWNESS", "1"))
    description = {
        "disk": str(image.disk),
        "kernel": str(image.kernel),
        "initrd": str(image.initrd or ""),
        "options": image.options,
        "report": str(directory.resolve()),
        "tree": str(tree.resolve()),
        "slowness": slowness,
    }
    path = directory / "machine.json"
    path.write_text(json.dumps(description))
    say(f"{kernel.name}: booting ({kernel.origin})")
    environment = os.environ | {"PYTHONPATH": f"{HERE}:{PROJECT}", "PYTHONUNBUFFERED": "1"}
    if wish.shell:
        command = [sys.executable, "-m", "lab.shell", str(path)]
    else:
        # Not the settings of `make test`, whose fixtures are for one kernel and many namespaces.
        command = [sys.executable, "-m", "pytest", "-c", str(HERE / "tests" / "pytest.ini"), str(HERE / "tests"), "-v"]
        command += ["--machine", str(path), f"--junitxml={directory / 'outside.xml'}", *wish.arguments]
    limit_s = LIMIT_S[accelerator()] * float(os.environ.get("SLOWNESS", "1"))
    start = time.monotonic()
    error, status = "", 1
    try:
        status = enclosure.run(command, net=True, deadline_s=None if wish.is_interactive else limit_s, env=environment)
    except enclosure.DeadlineError as late:
        console = directory / "console.log"
        last = console.read_text(errors="replace").splitlines()[-25:] if console.exists() else []
        error = f"the tests with this kernel: {late}"
        say("\n".join([f"{kernel.name}: {error}; the last lines of its console:", *last]))
    finally:
        tree.unlink(missing_ok=True)
    return report.read(kernel.name, kernel.origin, directory, status, error, time.monotonic() - start)
