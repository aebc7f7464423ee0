"""Kept programs are used for the same sources, macros, kernel and compiler, and only if nobody but root wrote them."""

import logging
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rtpproxy.offload import kept
from rtpproxy.offload.kept import MOST_FILES, KeptPrograms, key_of, stamp
from rtpproxy.offload.loader import bpf_directory
from tests.offload.test_compiled import COMPILED

KEY = "0" * 64
MACROS = {"FIRST_PORT": "35000", "PORT_SPAN": "100"}


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def programs(tmp_path):
    """Compiled by a compiler that the test may change."""
    file = tmp_path / "compiler"
    file.write_text("version 1")
    os.utime(file, (1, 1))
    return replace(COMPILED, compiler=(stamp(str(file)),))


class TestKey:
    @pytest.fixture
    def sources(self, tmp_path):
        return Path(shutil.copytree(bpf_directory(), tmp_path / "bpf"))

    def key(self, sources, macros=MACROS, is_strict=False):
        return key_of(sources, macros, is_strict=is_strict)

    def test_same(self, sources, tmp_path):
        other = shutil.copytree(sources, tmp_path / "elsewhere")
        assert self.key(sources) == self.key(other, dict(reversed(MACROS.items())))

    @pytest.mark.parametrize("macros", [{}, {**MACROS, "PORT_SPAN": "101"}, {**MACROS, "ANY_IPV4_SLOT": "0"}], ids=repr)
    def test_other_macros(self, sources, macros):
        assert self.key(sources, macros) != self.key(sources)

    def test_other_flags(self, sources):
        assert self.key(sources, is_strict=True) != self.key(sources)

    def test_each_source_counts(self, sources):
        found = {self.key(sources)}
        files = [path for path in sources.rglob("*") if path.is_file()]
        for path in files:
            path.write_bytes(path.read_bytes() + b"\n")
            found.add(self.key(sources))
        (sources / "new.h").write_text("")
        found.add(self.key(sources))
        assert len(found) == len(files) + 2

    def test_each_part_of_how_we_compile_counts(self, sources, monkeypatch, tmp_path):
        copies = [Path(shutil.copy(path, tmp_path)) for path in kept._HOW_WE_COMPILE]
        monkeypatch.setattr(kept, "_HOW_WE_COMPILE", copies)
        found = {self.key(sources)}
        for path in copies:
            path.write_text(path.read_text() + "\n")
            found.add(self.key(sources))
        assert len(found) == len(copies) + 1

    def test_how_we_compile_is_all_that_makes_what_is_kept(self):
        """But for what waits for the compiler, and what says why it failed."""
        needed = {"compiler"}
        for name in ("compiler", "compiled"):
            text = (Path(kept.__file__).parent / f"{name}.py").read_text()
            needed |= set(re.findall(r"^from rtpproxy\.offload\.(\w+) import", text, re.MULTILINE))
            needed |= set(re.findall(r"^from rtpproxy\.offload import (\w+)", text, re.MULTILINE))
        assert {path.stem for path in kept._HOW_WE_COMPILE} == needed - {"kept", "privilege", "progress"}

    @pytest.mark.parametrize("name", ["bcc", "other"])
    def test_other_bcc(self, sources, monkeypatch, tmp_path, name):
        monkeypatch.delitem(sys.modules, "bcc", raising=False)
        before = self.key(sources)
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path)
        assert (self.key(sources) == before) is (name == "other")

    def test_other_kernel(self, sources, monkeypatch):
        before, kernel = self.key(sources), os.uname()
        found = {before}
        for place in (2, 3, 4):
            fields = list(kernel)
            fields[place] += "x"
            monkeypatch.setattr(os, "uname", lambda fields=fields: os.uname_result(fields))
            found.add(self.key(sources))
        assert len(found) == 4

    def test_same_version_built_again(self, sources, monkeypatch, tmp_path):
        before, notes = self.key(sources), tmp_path / "notes"
        notes.write_bytes(b"another build ID")
        monkeypatch.setattr(kept, "_KERNEL_NOTES", notes)
        assert self.key(sources) != before

    def test_kernel_that_does_not_describe_its_types(self, sources, monkeypatch, tmp_path):
        """Its programs do without tracepoints."""
        found = set()
        for path in (tmp_path, tmp_path / "missing"):
            monkeypatch.setattr(kept, "TYPES_OF_KERNEL", path)
            found.add(self.key(sources))
        assert len(found) == 2

    def test_kernel_without_notes(self, sources, monkeypatch, tmp_path):
        monkeypatch.setattr(kept, "_KERNEL_NOTES", tmp_path / "missing")
        assert self.key(sources) == self.key(sources)


def test_no_directory_is_made_by_reading(directory):
    assert KeptPrograms(str(directory)).read(KEY) is None
    assert not directory.exists()


@pytest.mark.root
class TestFiles:
    def test_written_and_read(self, directory, programs, caplog):
        caplog.set_level(logging.INFO)
        old = os.umask(0o077)
        try:
            KeptPrograms(str(directory)).write(KEY, programs)
        finally:
            os.umask(old)
        assert KeptPrograms(str(directory)).read(KEY) == programs
        assert KeptPrograms(str(directory)).read("1" * 64) is None
        assert os.listdir(directory) == [KEY]
        assert (directory / KEY).stat().st_mode & 0o777 == 0o644
        assert caplog.messages == []

    @pytest.mark.parametrize("change", [lambda file: file.write_text("version 1.1"), os.utime, os.unlink])
    def test_other_compiler(self, directory, programs, tmp_path, caplog, change):
        files = KeptPrograms(str(directory))
        files.write(KEY, programs)
        change(tmp_path / "compiler")
        assert files.read(KEY) is None
        assert caplog.messages == []

    @pytest.mark.parametrize(
        ("harm", "why"),
        [
            (lambda directory: directory.chmod(0o777), "users other than its owner may write to it (mode 0777)"),
            (lambda directory: directory.chmod(0o775), "users other than its owner may write to it (mode 0775)"),
            (lambda directory: os.chown(directory, 65534, 0), "it belongs to user 65534"),
            (
                lambda directory: (directory / KEY).chmod(0o666),
                "users other than its owner may write to it (mode 0666)",
            ),
            (lambda directory: os.chown(directory / KEY, 65534, 0), "it belongs to user 65534"),
            (lambda directory: (directory / KEY).write_bytes(b""), "it is damaged"),
        ],
        ids=range(6),
    )
    def test_what_is_not_used(self, directory, programs, caplog, harm, why):
        files = KeptPrograms(str(directory))
        files.write(KEY, programs)
        harm(directory)
        assert files.read(KEY) is None
        assert caplog.messages == [f"{directory}: kept BPF programs are not used: {why}"]

    def test_link_is_not_followed(self, directory, programs, caplog):
        files = KeptPrograms(str(directory))
        files.write(KEY, programs)
        (directory / KEY).rename(directory / "elsewhere")
        (directory / KEY).symlink_to("elsewhere")
        assert files.read(KEY) is None
        assert caplog.messages == [f"{directory}: kept BPF programs are not used: Too many levels of symbolic links"]

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
    def test_no_plain_file(self, directory, caplog, make):
        directory.mkdir()
        make(directory / KEY, 0o644)
        assert KeptPrograms(str(directory)).read(KEY) is None
        assert len(caplog.messages) == 1

    def test_nothing_is_written_where_others_may_write(self, directory, programs, caplog):
        caplog.set_level(logging.INFO)
        directory.mkdir()
        directory.chmod(0o777)
        KeptPrograms(str(directory)).write(KEY, programs)
        assert os.listdir(directory) == []
        assert "are not kept for the next start: users other than its owner may write to it" in caplog.text

    def test_full_disk(self, directory, programs, monkeypatch, caplog):
        """Nothing is left of what could not be written, and an older file stays."""
        caplog.set_level(logging.INFO)
        files = KeptPrograms(str(directory))
        files.write(KEY, programs)
        with Path("/dev/full").open("wb", buffering=0) as full:
            monkeypatch.setattr(kept, "_create", lambda *_: os.dup(full.fileno()))
            files.write(KEY, programs)
        assert os.listdir(directory) == [KEY]
        assert caplog.messages == [
            f"{directory}: compiled BPF programs are not kept for the next start: No space left on device"
        ]
        assert files.read(KEY) == programs

    def test_what_is_no_file_is_left_alone(self, directory, programs, caplog):
        caplog.set_level(logging.INFO)
        files = KeptPrograms(str(directory))
        files.write(KEY, programs)
        for number in range(MOST_FILES):
            (directory / f"folder{number}").mkdir()
            os.utime(directory / f"folder{number}", (0, 0))
        files.write("1" * 64, programs)
        assert len(os.listdir(directory)) == MOST_FILES + 2
        assert caplog.messages == []

    def test_oldest_go(self, directory, programs):
        """What was read last is not among them; what a killed relay left unfinished is."""
        files = KeptPrograms(str(directory))
        for number in range(MOST_FILES):
            files.write(f"{number:064}", programs)
            os.utime(directory / f"{number:064}", (number, number))
        assert files.read(f"{0:064}") == programs
        (directory / "unfinished.1").write_text("")
        os.utime(directory / "unfinished.1", (0, 0))
        files.write("f" * 64, programs)
        expected = {f"{number:064}" for number in range(2, MOST_FILES)} | {f"{0:064}", "f" * 64}
        assert set(os.listdir(directory)) == expected
