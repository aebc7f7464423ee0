"""Builds what a machine boots: Debian 12 with our package as users install it, then an image of it for each kernel."""

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import enclosure
from lab.cache import Cache, hash_of
from lab.kernels import Kernel, OwnKernel, PackagedKernel
from lab.progress import say

PROJECT = Path(__file__).parents[2]
_GUEST = PROJECT / "vm-test" / "guest"
SUITE = "bookworm"
PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "kmod", "procps", "initramfs-tools", "zstd", "qemu-guest-agent"),
    *("iproute2", "ethtool", "nftables", "iputils-ping"),
    *("make", "ca-certificates"),
)
"""A system that boots and can be asked, what tests need in it, and what is there before a user's `make run`."""
_MAKE_DEADLINE_S = 1800.0
_PIP_PASSED = {"index-url", "extra-index-url", "proxy", "trusted-host", "timeout"}


class BuildError(Exception):
    """Something could not be built; the text ends with the last lines of what tried."""


@dataclass(frozen=True)
class Image:
    """What QEMU boots: a disk (ext4 on the whole of it), a kernel, and its initial RAM disk where it needs one."""

    disk: Path
    kernel: Path
    initrd: Path | None
    options: str
    """For the kernel's command line."""


def build(cache: Cache, kernel: Kernel) -> Image:
    """The image for one kernel, from the cache if it is there. BuildError if something fails."""
    root = _root(cache)
    boot = _packaged(cache, kernel) if isinstance(kernel, PackagedKernel) else None
    content = _content(kernel) if isinstance(kernel, OwnKernel) else str(boot)
    key = hash_of(root.name, content, _script("make-image"))

    def make(directory: Path) -> None:
        say(f"{kernel.name}: making the disk image")
        if isinstance(kernel, OwnKernel):
            source = [str(kernel.image), str(kernel.modules or "")]
        else:
            assert boot is not None
            source = [str(boot / "kernel.tar"), ""]
        _logged([_GUEST / "make-image", root / "root.tar", directory, *source], directory)

    directory = cache.get(f"image-{kernel.name}", key, make)
    initrd = directory / "initrd"
    return Image(
        directory / "disk",
        directory / "vmlinuz",
        initrd if initrd.exists() else None,
        # An image whose hash was checked vouches for the modules that its distribution signed, if it asks for that.
        "module.sig_enforce=1" if isinstance(kernel, PackagedKernel) and kernel.sha256 else "",
    )


def tree_tar(path: Path) -> None:
    """Write the project as it is in the work tree, without what git ignores, as a tar file."""
    listed = subprocess.run(
        [
            "git",
            "-c",
            "safe.directory=*",
            "-C",
            PROJECT,
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
        check=True,
        capture_output=True,
    ).stdout
    with tarfile.open(path, "w") as tar:
        for name in filter(None, listed.decode().split("\0")):
            if (PROJECT / name).exists():  # listed, but deleted
                tar.add(PROJECT / name, name)


def _root(cache: Cache) -> Path:
    """The directory with `root.tar`, all of Debian 12 with the package."""
    inputs = [" ".join(PACKAGES), _script("install"), *_files(_GUEST / "files"), *_installation()]
    packages = _resolve(SUITE, PACKAGES)
    if packages is None:
        return _newest(cache, "root")

    def make(directory: Path) -> None:
        say("building Debian 12 with our package, by its own commands")
        with tempfile.TemporaryDirectory(dir=directory) as temporary:
            tree = Path(temporary, "tree.tar")
            tree_tar(tree)
            environment = {"TREE": str(tree), "GUEST_FILES": str(_GUEST / "files"), **_pip_settings()}
            _mmdebstrap(
                directory,
                f"--include={','.join(PACKAGES)}",
                "--variant=minbase",
                f'--customize-hook=sh {_GUEST / "install"} "$1"',
                SUITE,
                directory / "root.tar",
                environment=environment,
            )

    return cache.get("root", hash_of(*inputs, packages), make)


def _packaged(cache: Cache, kernel: PackagedKernel) -> Path:
    """The directory with `kernel.tar`, a kernel as its distribution packed it."""
    packages = _resolve(kernel.suite, (kernel.package,), checked=not kernel.sha256)
    name = f"kernel-{kernel.name}"
    if packages is None:
        return _newest(cache, name)
    version = re.findall(r"^linux-image-\S+ \S+", packages, re.MULTILINE)

    def make(directory: Path) -> None:
        say(f"{kernel.name}: fetching {', '.join(version) or kernel.package} from {kernel.suite}")
        tar = directory / "kernel.tar"
        options = _suite_options(kernel.suite, checked=not kernel.sha256)
        _mmdebstrap(directory, "--variant=extract", f"--include={kernel.package}", *options, tar)
        if kernel.sha256:
            _check_image(tar, kernel.sha256)

    return cache.get(name, hash_of(kernel.origin, kernel.sha256, *version or [packages]), make)


def _suite_options(suite: str, *, checked: bool) -> list[str]:
    """Options and the suite, for mmdebstrap. Backports are another suite of the same release."""
    release, _, pocket = suite.partition("-")
    options = (
        []
        if checked
        else [
            '--aptopt=Acquire::AllowInsecureRepositories "true"',
            '--aptopt=APT::Get::AllowUnauthenticated "true"',
        ]
    )
    if pocket:
        sources = "$1/etc/apt/sources.list"
        options += [
            f'--setup-hook=sed -n "s/ {release} / {suite} /p" {sources} > {sources}.d/{pocket}.list',
            f'--aptopt=APT::Default-Release "{suite}"',
        ]
    return [*options, release]


def _resolve(suite: str, packages: Sequence[str], *, checked: bool = True) -> str | None:
    """The packages and versions that an installation would have today, a line each; None without a network."""
    ask = f"APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get --simulate --no-install-recommends install {' '.join(packages)}"
    answer = subprocess.run(
        [
            "mmdebstrap",
            "--variant=custom",
            f"--customize-hook={ask}",
            *_suite_options(suite, checked=checked),
            "/dev/null",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=_MAKE_DEADLINE_S,
    )
    found = sorted(set(re.findall(r"^Inst (\S+) \((\S+)", answer.stdout + answer.stderr, re.MULTILINE)))
    if answer.returncode == 0 and found:
        return "\n".join(" ".join(one) for one in found)
    text = (answer.stdout + answer.stderr).strip()
    say(f"cannot ask for the packages of {suite}: {text.splitlines()[-1] if text else 'no answer'}")
    return None


def _newest(cache: Cache, name: str) -> Path:
    if kept := cache.kept(name):
        say(f"going on with what was made before: {kept[0].name}")
        return cache.use(kept[0])
    raise BuildError(f"{name} was never made, and its packages cannot be had now: see above")


def _mmdebstrap(directory: Path, *options: str | Path, environment: dict[str, str] | None = None) -> None:
    """Run mmdebstrap, enclosed: its mounts end with it, and files of a user whose home is closed to others are read."""
    temporary = directory / "tmp"
    temporary.mkdir()
    settings = {"TMPDIR": str(temporary), **(environment or {})}
    try:
        _logged(["mmdebstrap", *options], directory, settings)
    finally:
        with contextlib.suppress(OSError):
            temporary.rmdir()


def _logged(args: list[str | Path], directory: Path, settings: dict[str, str] | None = None) -> None:
    """Run a command in an enclosure, its output in `log`; BuildError shows its end."""
    path = directory / "log"
    environment = os.environ | (settings or {})
    status: int | str
    with open(path, "ab") as log:
        try:
            with enclosure.started(args, env=environment, output=log) as process:
                status = process.wait(_MAKE_DEADLINE_S)
        except subprocess.TimeoutExpired:
            status = f"not at its end after {_MAKE_DEADLINE_S:.0f} s"
    if status:
        lines = path.read_text(errors="replace").splitlines()[-25:]
        raise BuildError("\n".join([f"{Path(args[0]).name} failed ({status}); its last lines:", *lines]))


def _check_image(tar_path: Path, sha256: str) -> None:
    """Check the kernel image in a tar file against its hash; BuildError if it is another."""
    with tarfile.open(tar_path) as tar:
        images = [member for member in tar if re.fullmatch(r"\./boot/vmlinu[xz]-.*", member.name)]
        content = tar.extractfile(images[0]) if images else None
        found = hashlib.sha256((content or io.BytesIO()).read()).hexdigest()
    if found != sha256:
        raise BuildError(f"the kernel image has SHA-256 {found}, and the list of kernels says {sha256}")


def _installation() -> list[str | bytes]:
    """What decides which packages the project's own commands install."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    needed = {name: project["project"].get(name) for name in ("dependencies", "optional-dependencies", "scripts")}
    return [json.dumps([needed, project["build-system"]]), (PROJECT / "Makefile").read_bytes()]


def _files(directory: Path) -> list[bytes]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return [part for path in files for part in (str(path.relative_to(directory)).encode(), path.read_bytes())]


def _script(name: str) -> bytes:
    return (_GUEST / name).read_bytes()


def _content(kernel: OwnKernel) -> bytes:
    names = sorted(f"{path} {path.stat().st_size}" for path in kernel.modules.rglob("*")) if kernel.modules else []
    return kernel.image.read_bytes() + "\n".join(names).encode()


def _pip_settings() -> dict[str, str]:
    """This host's settings of pip that hold in another root, too: a company's index, proxy, certificates."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    settings: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        name, value = name.rpartition(".")[2], value.strip("'\"")
        if name == "cert":
            settings["CERTIFICATES"] = value
        elif name in _PIP_PASSED and "file:" not in value:
            settings[f"PIP_{name.upper().replace('-', '_')}"] = value
    return settings
