"""Loading: descriptors and layouts come back, or one line that says why not."""

import logging
import mmap
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rtpproxy.errors import OffloadError
from rtpproxy.offload import loader
from rtpproxy.offload.compiler import compile_programs
from rtpproxy.offload.kept import stamp
from rtpproxy.offload.loader import bpf_directory, load, load_compiled
from rtpproxy.offload.programs import LIMITS
from rtpproxy.offload.syscall import program_id, program_name
from tests.bpf.prog_run import XDP_PASS, run
from tests.offload.unprivileged import NOBODY, with_capabilities

WILDCARDS = {"ANY_IPV4_SLOT": "0", "ANY_IPV6_SLOT": "1", "LOCAL_SLOTS": "2"}
ADDRESSES = {
    "LOCAL_SLOTS": "2",
    "FIRST_IPV4": "__constant_htonl(0xa000101)",
    "FIRST_IPV4_SLOT": "0",
    "FIRST_IPV6": "{1,2,3,4}",
    "FIRST_IPV6_SLOT": "1",
}
MAPS = {
    *("port_rows", "port_hosts6", "port_counters", "port_events", "next_hops", "verdicts"),
    *("port_sources", "port_budgets", "host_budgets", "learning_budgets", "fragment_budgets"),
    *("local_slots", "host_addresses", "untagged_links", "links", "steered_sockets"),
    *("own_program", "refused_frames", "batch_began", "tee_kept", "tee_rings"),
}
LOAD_ELSEWHERE = f"""
from rtpproxy.errors import OffloadError
from rtpproxy.offload import loader
try:
    loader.load({LIMITS!r}).close()
    print("loaded")
except OffloadError as error:
    print(error)
"""

loads_bpf = [pytest.mark.root, pytest.mark.kernel]


def load_elsewhere(*prefix, **options):
    """Load in a process of its own. Returns `loaded`, or the reason."""
    command = [*prefix, sys.executable, "-P", "-c", LOAD_ELSEWHERE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, **options)
    assert done.stderr == ""
    return done.stdout.removesuffix("\n")


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


def copy_of_programs(tmp_path, monkeypatch):
    """A copy of the programs that the loader uses instead, for the test to break."""
    directory = tmp_path / "bpf"
    shutil.copytree(bpf_directory(), directory)
    monkeypatch.setattr(loader, "bpf_directory", lambda: directory)
    return directory


def test_programs_are_found():
    assert (bpf_directory() / "relay.c").is_file()


def test_incomplete_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "__file__", str(tmp_path / "rtpproxy" / "offload" / "loader.py"))
    expected = f"bpf/relay.c is missing beside {tmp_path}/rtpproxy: the installation is incomplete"
    with pytest.raises(OffloadError) as caught:
        load(LIMITS)
    assert str(caught.value) == expected


class TestLoaded:
    pytestmark = loads_bpf

    def test_descriptors_and_layouts(self):
        before = open_descriptors()
        loaded = load(LIMITS)
        try:
            assert loaded.map_fds.keys() == loaded.layouts.keys() == MAPS
            assert run(loaded.xdp_fd, bytes(64))[:2] == (XDP_PASS, bytes(64))
            rows = loaded.layouts["port_rows"]
            mmap.mmap(loaded.map_fds["port_rows"], rows.value.size * rows.entries).close()
        finally:
            loaded.close()
        assert open_descriptors() == before

    def test_no_child_inherits_the_descriptors(self):
        loaded = load(LIMITS)
        programs = loaded.xdp_fd, loaded.tc_fd, loaded.tc_behind_xdp_fd, loaded.steer_fd
        fds = [*programs, *loaded.map_fds.values()]
        inheritable = [fd for fd in fds if os.get_inheritable(fd)]
        loaded.close()
        assert inheritable == []

    def test_limits_can_be_set(self):
        ports = {"FIRST_PORT": "35000", "PORT_SPAN": "100", "LOCAL_SLOTS": "3"}
        loaded = load({**LIMITS, "MAX_NEXT_HOPS": "16", **ports})
        loaded.close()
        entries = [loaded.layouts[name].entries for name in ("next_hops", "port_rows", "port_counters", "port_events")]
        assert entries == [16, 300, 300, 300]

    @pytest.mark.parametrize("options", [{}, WILDCARDS, {**ADDRESSES, "DOUBLED_BYTES": "100"}], ids=repr)
    def test_compiler_warns_of_nothing(self, options):
        """With -Wall -Wextra -Werror, for every way in which the relay defines macros."""
        load({**LIMITS, **options}, is_strict=True).close()

    def test_warning_is_an_error_in_tests_only(self, tmp_path, monkeypatch):
        directory = copy_of_programs(tmp_path, monkeypatch)
        with (directory / "frame.h").open("a") as header:
            header.write("static __always_inline int careless(int unused)\n{\n\treturn 0;\n}\n")
        load(LIMITS).close()
        with pytest.raises(OffloadError, match=r"^cannot compile: "):
            load(LIMITS, is_strict=True)

    def test_fingerprint(self, caplog):
        """Equal for equal options, whatever the names of the programs; logged at each load."""
        caplog.set_level(logging.DEBUG)
        found = []
        for macros, names in (
            (LIMITS, None),
            (LIMITS, {"on_xdp": "rtpp_x_other"}),
            ({**LIMITS, **WILDCARDS}, None),
            ({**LIMITS, "FIRST_PORT": "1"}, None),
            ({**LIMITS, "MAX_LINKS": "9"}, None),
        ):
            loaded = load(macros, names)
            loaded.close()
            found.append(loaded.fingerprint)
            assert caplog.messages[-1] == f"fingerprint of the BPF maps: {loaded.fingerprint}"
        assert found[0] == found[1]
        assert len(set(found)) == len(found) - 1

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("__u8 reserved2;", "__u8 spare;"),
            ("__u32 duplicates;\n\t__u32 parse_errors;", "__u32 parse_errors;\n\t__u32 duplicates;"),
        ],
    )
    def test_fingerprint_changes_with_the_header(self, tmp_path, monkeypatch, old, new):
        before = load(LIMITS)
        before.close()
        header = copy_of_programs(tmp_path, monkeypatch) / "types.h"
        text = header.read_text()
        assert text.count(old) == 1
        header.write_text(text.replace(old, new))
        after = load(LIMITS)
        after.close()
        assert after.fingerprint != before.fingerprint

    @pytest.mark.vm
    def test_verifier_is_far_from_its_limit(self, loaded):
        """The limit is a million steps; other kernels take half or twice as many. Linux tells the number since 5.16."""
        for fd in (loaded.xdp_fd, loaded.tc_fd, loaded.tc_behind_xdp_fd, loaded.steer_fd):
            told = dict(line.split(":") for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
            assert int(told.get("verified_insns", 0)) < 300_000

    def test_compiler_is_not_kept(self):
        code = (
            "import sys\n"
            "from rtpproxy.offload.loader import load\n"
            f"load({LIMITS!r})\n"
            "print('bcc' in sys.modules, 'libbcc' in open('/proc/self/maps').read())"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "False False\n"

    def test_error_in_the_programs(self, tmp_path, monkeypatch):
        directory = copy_of_programs(tmp_path, monkeypatch)
        (directory / "parse.h").write_text("#error broken\n")
        before = open_descriptors()
        with pytest.raises(OffloadError) as caught:
            load(LIMITS)
        assert str(caught.value).startswith("cannot compile: Failed to compile BPF module")
        assert "\n" not in str(caught.value)
        assert open_descriptors() == before

    @pytest.mark.parametrize("limit", LIMITS)
    def test_limits_have_no_default_in_c(self, caplog, limit):
        """So that the kernel's number is Python's."""
        caplog.set_level(logging.DEBUG)
        with pytest.raises(OffloadError, match=r"^cannot compile: "):
            load({name: value for name, value in LIMITS.items() if name != limit})
        assert any("#error" in message and limit in message for message in caplog.messages), caplog.messages

    def test_missing_header(self, tmp_path, monkeypatch):
        (copy_of_programs(tmp_path, monkeypatch) / "types.h").unlink()
        with pytest.raises(OffloadError, match=r"^cannot compile: "):
            load(LIMITS)

    def test_source_that_cannot_be_read(self, tmp_path, monkeypatch):
        directory = copy_of_programs(tmp_path, monkeypatch)
        (directory / "types.h").unlink()
        (directory / "types.h").symlink_to("/proc/self/mem")
        with pytest.raises(OffloadError, match=r"^cannot read the sources of the BPF programs: "):
            load(LIMITS, directory=str(tmp_path / "cache"))

    def test_program_that_the_kernel_refuses(self, tmp_path, monkeypatch, caplog):
        before = open_descriptors()
        caplog.set_level(logging.DEBUG)
        directory = copy_of_programs(tmp_path, monkeypatch)
        endless = "struct xdp_md *ctx)\n{\n\twhile (bpf_get_prandom_u32() != 1)\n\t\t;\n"
        program = (directory / "relay.c").read_text()
        (directory / "relay.c").write_text(program.replace("struct xdp_md *ctx)\n{\n", endless, 1))
        loaded = load(LIMITS)
        with pytest.raises(OffloadError) as caught:
            _ = loaded.xdp_fd
        advice = f"(kernel {os.uname().release}; 5.11 or later is needed; -d DBUG shows its reasons)"
        assert str(caught.value) == f"cannot load the program for XDP: Invalid argument {advice}"
        assert caplog.messages[-1].startswith("BPF verifier: ")
        assert any("infinite loop" in message for message in caplog.messages), caplog.messages
        assert loaded.tc_fd  # The others are not lost.
        loaded.close()
        assert open_descriptors() == before

    def test_kernel_names_the_programs(self):
        loaded = load(LIMITS, {"on_xdp": "rtpp_x_ours"})
        found = [program_name(program_id(fd)) for fd in (loaded.xdp_fd, loaded.tc_fd)]
        loaded.close()
        assert found == ["rtpp_x_ours", "on_tc"]

    def test_too_many_open_files(self):
        """What was made until then is closed."""
        before = open_descriptors()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        compiled = compile_programs(bpf_directory(), LIMITS, is_strict=False)
        sixth_free = [number for number in range(limits[0]) if str(number) not in before][5]
        resource.setrlimit(resource.RLIMIT_NOFILE, (sixth_free, limits[1]))
        try:
            with pytest.raises(OffloadError, match=r"^cannot make the map \w+: Too many open files$"):
                load_compiled(compiled, LIMITS, {})
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert open_descriptors() == before

    def test_what_lies_in_the_working_directory_is_not_run(self, tmp_path):
        """The relay may be started by root in a directory that anybody can write to."""
        for name in ("json.py", "bcc.py", "rtpproxy.py"):
            (tmp_path / name).write_text(f"raise SystemExit('{name} was run')")
        assert load_elsewhere(cwd=tmp_path) == "loaded"


@pytest.fixture(scope="module")
def compiled():
    """What the compiler makes of the programs; it takes seconds."""
    return compile_programs(bpf_directory(), LIMITS, is_strict=False)


class TestKept:
    """Compiled programs are kept in a directory."""

    pytestmark = loads_bpf

    @pytest.fixture
    def times(self, compiled, tmp_path, monkeypatch):
        """Returns a function that loads twice and tells how many times that compiled anything."""
        asked = []

        def compile_programs(*_, **__):
            asked.append(1)
            return compiled

        monkeypatch.setattr(loader, "compile_programs", compile_programs)

        def times(macros=LIMITS, **options):
            asked.clear()
            for _ in range(2):
                load(macros, directory=str(tmp_path / "cache"), **options).close()
            return len(asked)

        assert times() == 1
        assert times() == 0
        return times

    def test_other_options(self, times):
        assert times({**LIMITS, **WILDCARDS}) == 1
        assert times({**LIMITS, **ADDRESSES}) == 1
        assert times(is_strict=True) == 1
        assert times() == 0

    def test_change_of_the_sources(self, times, tmp_path, monkeypatch):
        directory = copy_of_programs(tmp_path, monkeypatch)
        assert times() == 0
        with (directory / "verdict.h").open("a") as header:
            header.write("\n")
        assert times() == 1

    @pytest.mark.parametrize("place", [2, 3])
    def test_other_kernel(self, times, monkeypatch, place):
        """Another release, and another build of the same release."""
        fields = list(os.uname())
        fields[place] += "-1"
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(fields))
        assert times() == 1

    def test_other_compiler(self, times, compiled, tmp_path, monkeypatch):
        """What is kept tells the compiler, which changes here between two starts."""
        library = tmp_path / "library"
        library.write_text("")
        changed = replace(compiled, compiler=(stamp(str(library)),))
        monkeypatch.setattr(loader, "compile_programs", lambda *_, **__: changed)
        directory = str(tmp_path / "other")
        load(LIMITS, directory=directory).close()
        monkeypatch.setattr(loader, "compile_programs", refuse_to_compile)
        load(LIMITS, directory=directory).close()
        library.write_text("newer")
        with pytest.raises(OffloadError, match="asked to compile"):
            load(LIMITS, directory=directory)


def refuse_to_compile(*_, **__):
    raise OffloadError("asked to compile")


class TestPrivilege:
    pytestmark = loads_bpf

    @pytest.mark.parametrize("uid", [NOBODY, 0])
    def test_none(self, uid):
        """An ordinary user, and root in a container."""
        said = load_elsewhere(*with_capabilities(uid=uid))
        assert said.startswith("cannot ")
        assert said.partition(": ")[2].startswith("no privilege")

    def test_that_the_message_asks_for(self):
        said = load_elsewhere(*with_capabilities())
        names = [word.strip(",").removeprefix("CAP_").lower() for word in said.split() if word.startswith("CAP_")]
        assert names
        assert load_elsewhere(*with_capabilities(*names)) == "loaded"
