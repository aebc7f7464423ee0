"""The kernels of the file `kernels`, and where each comes from."""

import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class KernelError(ValueError):
    """A line of the list, or a name on the command line, is not understood."""


@dataclass(frozen=True)
class PackagedKernel:
    """A kernel of a distribution: `suite` and `package` for mmdebstrap, `sha256` of the image or empty."""

    name: str
    suite: str
    package: str
    sha256: str = ""

    @property
    def origin(self) -> str:
        return f"{self.suite}, {self.package}"


@dataclass(frozen=True)
class OwnKernel:
    """A bzImage, and the directory of its modules (`lib/modules/VERSION`) where it has any."""

    name: str
    image: Path
    modules: Path | None = None

    @property
    def origin(self) -> str:
        return str(self.image)


Kernel = PackagedKernel | OwnKernel


def read_kernels(text: str) -> list[Kernel]:
    """The kernels of the list, in its order. KernelError names the line that is wrong."""
    kernels: list[Kernel] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            kernel = _read(words)
        except KernelError as error:
            raise KernelError(f"line {number} of the list of kernels: {error}") from None
        if kernel.name in {known.name for known in kernels}:
            raise KernelError(f"line {number} of the list of kernels: there is another {kernel.name} above")
        kernels.append(kernel)
    return kernels


def choose(kernels: list[Kernel], wanted: tuple[str, ...]) -> list[Kernel]:
    """The wanted ones, all where none is named; each is a name of the list or the path of a bzImage."""
    by_name = {kernel.name: kernel for kernel in kernels}
    return [by_name.get(name) or _own(name, name) for name in wanted] if wanted else kernels


def _read(words: list[str]) -> Kernel:
    name, source, *rest = [*words, ""] if len(words) == 1 else words
    if not _NAME.fullmatch(name):
        raise KernelError(f"{name!r} is no name: lower-case letters, digits, '.', '_' and '-'")
    if "/" in source:
        if len(rest) > 1:
            raise KernelError(f"{' '.join(rest[1:])!r} is too much after the directory of modules")
        return _own(name, source, *rest)
    if not source or not rest or len(rest) > 2:
        raise KernelError("expected NAME SUITE PACKAGE [SHA-256], or NAME FILE [MODULES]")
    if len(rest) == 2 and not _SHA256.fullmatch(rest[1]):
        raise KernelError(f"{rest[1]!r} is no SHA-256: 64 hexadecimal digits")
    return PackagedKernel(name, source, *rest)


def _own(name: str, image: str, modules: str = "") -> OwnKernel:
    path = Path(image)
    if "/" not in image and not path.is_file():
        raise KernelError(f"{name!r} is neither in the list of kernels nor a file")
    if not path.is_file():
        raise KernelError(f"{image}: no such kernel image")
    if modules and not (Path(modules) / "modules.dep").is_file() and not (Path(modules) / "kernel").is_dir():
        raise KernelError(f"{modules} has no modules: name the directory lib/modules/VERSION")
    label = re.sub(r"[^a-z0-9._-]", "-", path.name.lower()) if name == image else name
    return OwnKernel(label, path.resolve(), Path(modules).resolve() if modules else None)
