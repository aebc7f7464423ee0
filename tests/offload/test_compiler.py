"""Compiling in the child: programs come back, or one line that says why not; a child that gets nowhere is replaced."""

import logging
import os
import sys

import pytest

from rtpproxy.errors import OffloadError
from rtpproxy.offload import compiler
from rtpproxy.offload.compiler import compile_programs
from rtpproxy.offload.loader import bpf_directory
from rtpproxy.offload.programs import LIMITS
from rtpproxy.offload.progress import Progress


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


def shadow_bcc(tmp_path, monkeypatch, text):
    """Let another package of that name be found first."""
    package = tmp_path / "bcc"
    package.mkdir()
    (package / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.parametrize("text", ["raise ModuleNotFoundError('bcc')", "", "VERSION = 1"], ids=str)
def test_without_bcc(tmp_path, monkeypatch, text):
    """Missing, or the unrelated package of that name on the Python Package Index."""
    shadow_bcc(tmp_path, monkeypatch, text)
    with pytest.raises(OffloadError) as caught:
        compile_programs(bpf_directory(), LIMITS, is_strict=False)
    assert str(caught.value) == (
        f"bcc is not installed for {sys.executable}: install Debian's python3-bpfcc "
        "and run from a virtual environment with system site packages"
    )


def test_bcc_without_its_library(tmp_path, monkeypatch):
    shadow_bcc(tmp_path, monkeypatch, "raise OSError('libbcc.so.0: cannot open shared object file')")
    with pytest.raises(OffloadError) as caught:
        compile_programs(bpf_directory(), LIMITS, is_strict=False)
    assert str(caught.value) == "the BPF compiler died: OSError: libbcc.so.0: cannot open shared object file"


def test_child_that_dies_without_a_word(tmp_path, monkeypatch):
    shadow_bcc(tmp_path, monkeypatch, "import os; os._exit(3)")
    with pytest.raises(OffloadError, match=r"^the BPF compiler died: no message$"):
        compile_programs(bpf_directory(), LIMITS, is_strict=False)


HANG_ONCE = """
import os, signal
try:
    os.close(os.open({path!r}, os.O_CREAT | os.O_EXCL))
    {hang}
except FileExistsError:
    raise OSError("the second one works")
"""


def be_impatient(monkeypatch, most_idle_s=5.0):
    """On a busy machine, a child that is not stuck may do nothing for a second or two."""
    monkeypatch.setattr(compiler, "_LOOK_S", 0.1)
    monkeypatch.setattr(compiler, "Progress", lambda: Progress(most_processor_s=3.0, most_idle_s=most_idle_s))


@pytest.mark.parametrize(
    ("hang", "why"),
    [
        ("signal.pause()", "the compiler does nothing"),
        ("while True: pass", "the compiler does not come to an end"),
    ],
)
def test_child_that_gets_nowhere_is_followed_by_another(tmp_path, monkeypatch, caplog, hang, why):
    be_impatient(monkeypatch)
    shadow_bcc(tmp_path, monkeypatch, HANG_ONCE.format(path=str(tmp_path / "first"), hang=hang))
    before = open_descriptors()
    with pytest.raises(OffloadError, match=r"^the BPF compiler died: OSError: the second one works$"):
        compile_programs(bpf_directory(), LIMITS, is_strict=False)
    assert open_descriptors() == before
    (record,) = caplog.records
    assert (record.levelno, record.message) == (
        logging.WARNING,
        f"the BPF programs cannot be compiled: {why}; trying again (2 of 3)",
    )


def test_children_that_all_hang(tmp_path, monkeypatch, caplog):
    be_impatient(monkeypatch)
    shadow_bcc(tmp_path, monkeypatch, "import signal; signal.pause()")
    before = open_descriptors()
    with pytest.raises(OffloadError, match=r"^the BPF programs cannot be compiled: the compiler does nothing$"):
        compile_programs(bpf_directory(), LIMITS, is_strict=False)
    assert open_descriptors() == before
    assert [message.partition("; ")[2] for message in caplog.messages] == [
        "trying again (2 of 3)",
        "trying again (3 of 3)",
    ]


def test_child_that_gets_little_of_the_processor_is_waited_for(tmp_path, monkeypatch, caplog):
    """It is stopped again and again, for longer than it may do nothing in all, but goes on in between."""
    be_impatient(monkeypatch, most_idle_s=8.0)
    shadow_bcc(
        tmp_path,
        monkeypatch,
        "import select, time\n"
        "for _ in range(20):\n"
        "    select.select((), (), (), 0.5)\n"
        "    end = time.process_time() + 0.03\n"
        "    while time.process_time() < end: pass\n"
        "raise OSError('it came to an end')",
    )
    with pytest.raises(OffloadError, match="it came to an end"):
        compile_programs(bpf_directory(), LIMITS, is_strict=False)
    assert caplog.messages == []
