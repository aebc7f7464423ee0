"""Prompt files: which one is opened, and which never, with and without a directory for them."""

import os
import socket

import pytest

from rtpproxy.errors import PlaybackError, StartError
from rtpproxy.playback.files import Files, read_block
from tests.playback.descriptors import open_files


@pytest.fixture
def here(tmp_path):
    """A directory with a prompt in two codecs; in the end, nothing is open that was not before."""
    before = open_files()
    for payload_type in (0, 8):
        (tmp_path / f"moh.{payload_type}").write_bytes(bytes([payload_type]) * 800)
    yield tmp_path
    assert open_files() == before


def opened(files, prompt, payload_types=(0,)):
    """Open a prompt; its path, payload type and content."""
    found = files.open(os.fsencode(prompt), payload_types)
    try:
        assert found.version.size == os.fstat(found.descriptor).st_size
        assert os.get_inheritable(found.descriptor) is False
        return found.path.decode(), found.payload_type, os.read(found.descriptor, 10_000)
    finally:
        os.close(found.descriptor)


def refusal(files, prompt, payload_types=(0,)):
    with pytest.raises(PlaybackError) as raised:
        files.open(os.fsencode(prompt), payload_types)
    return str(raised.value)


def test_the_first_payload_type_that_has_a_file(here):
    assert opened(Files(""), here / "moh", (97, 8, 0)) == (f"{here}/moh.8", 8, bytes([8]) * 800)


def test_no_file_at_all(here):
    assert refusal(Files(""), here / "nothing", (0, 8)) == (
        f"{here}/nothing.0: No such file or directory; {here}/nothing.8: No such file or directory"
    )
    assert refusal(Files(""), here / "nothing", range(99)).endswith("nothing.2: No such file or directory and others")


def test_names_that_are_no_names(here):
    assert "File name too long" in refusal(Files(""), here / ("x" * 5000))
    assert "Not a directory" in refusal(Files(""), here / "moh.0" / "x")
    assert r"\n\xff.0: No such file" in refusal(Files(""), b"\n\xff")


def test_relative_names(here, monkeypatch):
    monkeypatch.chdir(here)
    assert opened(Files(""), "moh")[1:] == (0, bytes(800))
    (here / "sub").mkdir()
    assert opened(Files(""), "sub/../moh")[1:] == (0, bytes(800))


def make_fifo(path):
    os.mkfifo(path)


def make_device(path):
    os.symlink("/dev/zero", path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def make_directory(path):
    path.mkdir()


@pytest.mark.parametrize("make", [make_fifo, make_device, make_socket, make_directory])
def test_only_regular_files(here, make):
    """Nothing waits for the other end of a FIFO, either; the next payload type may have a file."""
    make(here / "odd.0")
    assert refusal(Files(""), here / "odd") == f"{here}/odd.0: it is no regular file"
    (here / "odd.8").write_bytes(b"8")
    assert opened(Files(""), here / "odd", (0, 8)) == (f"{here}/odd.8", 8, b"8")


def test_a_symbolic_link_is_followed(here):
    (here / "link.0").symlink_to(here / "moh.0")
    assert opened(Files(""), here / "link")[2] == bytes(800)


def test_versions(here):
    files, path = Files(""), here / "moh.0"
    before = files.version(os.fsencode(path))
    assert files.version(os.fsencode(path)) == before
    with path.open("ab") as file:
        file.write(b"x")
    assert files.version(os.fsencode(path)) != before
    path.unlink()
    with pytest.raises(FileNotFoundError):
        files.version(os.fsencode(path))


# In a directory


@pytest.fixture
def inside(here):
    """A directory of prompts beside which there is another one."""
    directory = here / "prompts"
    (directory / "sub").mkdir(parents=True)
    (directory / "moh.0").write_bytes(b"inside")
    (directory / "sub" / "moh.0").write_bytes(b"deeper")
    return directory


def test_names_in_the_directory(inside):
    files = Files(str(inside))
    for prompt in ("moh", "./moh", "sub/../moh", f"{inside}/moh", f"{inside}//../prompts/moh"):
        if ".." in prompt and prompt.startswith("/"):
            continue
        assert opened(files, prompt)[2] == b"inside", prompt
    assert opened(files, "sub/moh")[2] == b"deeper"
    assert opened(files, f"{inside}/sub/moh")[2] == b"deeper"


@pytest.mark.parametrize(
    "prompt", ["../moh", "sub/../../moh", "{inside}/../moh", "{here}/moh", "/moh", "//{inside}/moh", "{inside}x/moh"]
)
def test_names_outside_of_it(here, inside, prompt):
    assert refusal(Files(str(inside)), prompt.format(inside=inside, here=here)).endswith(
        ": it is outside of --prompt-directory"
    )


def test_links_do_not_lead_out_of_it(here, inside):
    files = Files(str(inside))
    (inside / "out.0").symlink_to(here / "moh.0")
    (inside / "up").symlink_to("..")
    (inside / "absolute.0").symlink_to(inside / "moh.0")
    for prompt in ("out", "up/moh", "absolute"):
        assert refusal(files, prompt).endswith(": it is outside of --prompt-directory"), prompt
    (inside / "magic.0").symlink_to("/proc/self/fd/0")
    assert refusal(files, "magic")
    (inside / "sub" / "in.0").symlink_to("../moh.0")
    assert opened(files, "sub/in")[2] == b"inside"


def test_the_directory_may_be_replaced(here, inside):
    """By a new one that was made beside it, or by what is mounted there."""
    files = Files(str(inside))
    inside.rename(here / "old")
    assert "No such file" in refusal(files, "moh")
    inside.mkdir()
    (inside / "moh.0").write_bytes(b"new")
    assert opened(files, "moh")[2] == b"new"


def test_the_root_directory(here):
    assert opened(Files("/"), here / "moh")[2] == bytes(800)


def test_a_directory_that_is_none(here):
    for path, why in ((here / "nothing", "No such file or directory"), (here / "moh.0", "Not a directory")):
        with pytest.raises(StartError, match=f"--prompt-directory {path}: {why}"):
            Files(str(path))


# Reading


def test_blocks(here):
    path = here / "moh.0"
    path.write_bytes(bytes(range(100)))
    with path.open("rb") as file:
        assert read_block(file.fileno(), 0, 100) == bytes(range(100))
        assert read_block(file.fileno(), 90, 10) == bytes(range(90, 100))
        assert read_block(file.fileno(), 90, 0) == b""
        with pytest.raises(PlaybackError, match="it has been cut short"):
            read_block(file.fileno(), 90, 11)
        os.truncate(path, 50)
        with pytest.raises(PlaybackError, match="it has been cut short"):
            read_block(file.fileno(), 0, 100)
