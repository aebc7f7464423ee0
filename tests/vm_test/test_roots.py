"""What images are made from."""

import hashlib
import io
import tarfile

import pytest
from lab import roots

IMAGE = b"a kernel"


@pytest.fixture
def packed(tmp_path):
    """A kernel as a distribution packs it."""
    path = tmp_path / "kernel.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("./boot/vmlinuz-5.15.0-25-generic")
        member.size = len(IMAGE)
        tar.addfile(member, io.BytesIO(IMAGE))
    return path


def test_a_kernel_image_is_held_against_its_hash(packed):
    roots._check_image(packed, hashlib.sha256(IMAGE).hexdigest())
    with pytest.raises(roots.BuildError, match=f"has SHA-256 {hashlib.sha256(IMAGE).hexdigest()}, .* says {'0' * 64}"):
        roots._check_image(packed, "0" * 64)


def test_a_package_without_a_kernel_image_has_another_hash(tmp_path):
    path = tmp_path / "kernel.tar"
    tarfile.open(path, "w").close()
    with pytest.raises(roots.BuildError):
        roots._check_image(path, hashlib.sha256(IMAGE).hexdigest())


def test_backports_are_a_suite_of_their_release():
    options = roots._suite_options("bookworm-backports", checked=True)
    assert options[-1] == "bookworm"
    assert '--aptopt=APT::Default-Release "bookworm-backports"' in options
    assert roots._suite_options("trixie", checked=True) == ["trixie"]


def test_only_an_image_with_a_hash_comes_without_a_signature():
    assert not [option for option in roots._suite_options("jammy", checked=True) if "Unauthenticated" in option]
    assert [option for option in roots._suite_options("jammy", checked=False) if "Unauthenticated" in option]


def test_the_tree_is_that_of_the_work_tree(tmp_path):
    """What git ignores, as .venv, is not in it."""
    path = tmp_path / "tree.tar"
    roots.tree_tar(path)
    with tarfile.open(path) as tar:
        names = tar.getnames()
        makefile = tar.extractfile("Makefile").read()
    assert makefile == (roots.PROJECT / "Makefile").read_bytes()
    assert "rtpproxy/instance/serve.py" in names
    assert not [name for name in names if name.startswith((".venv", ".git/", "vm-report"))]


def test_a_command_that_fails_while_building_is_quoted(tmp_path):
    with pytest.raises(roots.BuildError, match=r"sh failed \(3\); its last lines:\nno space"):
        roots._logged(["sh", "-c", "echo no space; exit 3"], tmp_path)
