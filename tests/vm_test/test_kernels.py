"""The list of kernels, and what it must not take."""

from pathlib import Path

import pytest
from lab.kernels import KernelError, OwnKernel, PackagedKernel, choose, read_kernels

LIST = Path(__file__).parents[2] / "vm-test" / "kernels"
HASH = "0123456789abcdef" * 4


def test_our_list():
    kernels = read_kernels(LIST.read_text())
    assert [kernel.name for kernel in kernels] == ["debian12", "debian12-backports", "debian13", "ubuntu22.04"]
    assert all(isinstance(kernel, PackagedKernel) for kernel in kernels)
    assert [kernel.name for kernel in kernels if kernel.sha256] == ["ubuntu22.04"]  # it has no keyring in Debian


def test_lines(tmp_path):
    image = tmp_path / "bzImage"
    image.touch()
    modules = tmp_path / "lib" / "modules" / "6.1"
    (modules / "kernel").mkdir(parents=True)
    assert read_kernels(f"# a comment\n\na sid linux-image-amd64  # and one more\nb {image}\nc {image} {modules}") == [
        PackagedKernel("a", "sid", "linux-image-amd64"),
        OwnKernel("b", image),
        OwnKernel("c", image, modules),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a", "expected NAME SUITE PACKAGE"),
        ("a sid", "expected NAME SUITE PACKAGE"),
        (f"a sid linux {HASH} more", "expected NAME SUITE PACKAGE"),
        ("a sid linux abc", "no SHA-256"),
        ("A sid linux", "is no name"),
        ("a /nowhere/bzImage", "no such kernel image"),
        ("a /dev/null", "no such kernel image"),
        ("a sid linux\na sid linux-cloud", "another a above"),
    ],
)
def test_bad_lines(line, reason):
    with pytest.raises(KernelError, match=reason) as caught:
        read_kernels(f"\n{line}")
    assert f"line {line.count(chr(10)) + 2}" in str(caught.value)


def test_choice(tmp_path):
    image = tmp_path / "My bzImage"
    image.touch()
    kernels = [PackagedKernel("a", "sid", "linux"), PackagedKernel("b", "sid", "linux")]
    assert choose(kernels, ()) == kernels
    assert choose(kernels, ("b",)) == kernels[1:]
    assert choose(kernels, (str(image),)) == [OwnKernel("my-bzimage", image)]
    with pytest.raises(KernelError, match="neither in the list of kernels nor a file"):
        choose(kernels, ("c",))
