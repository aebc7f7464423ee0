"""Programs and maps where something after loading fails; the rest is in tests/netns_call and tests/bpf."""

import asyncio
import contextlib
import errno
import gc
import logging
import os

import pytest

from rtpproxy.config import Config, ControlAddress, ControlKind, ListenAddress, OffloadMode
from rtpproxy.errors import OffloadError
from rtpproxy.network.background import Background
from rtpproxy.offload import loader
from rtpproxy.offload.loading import BeingLoadedError
from rtpproxy.offload.programs import Programs, instance_name, next_hops_of
from rtpproxy.session.latch import KnownSource
from rtpproxy.session.loops import RTCP_PER_SECOND, UNNUMBERED_PER_SECOND
from rtpproxy.session.session import Component
from tests.offload.relay_network import Later
from tests.waiting import DEADLINE_S

pytestmark = [pytest.mark.root, pytest.mark.kernel]

ANY, ONE = ListenAddress(), ListenAddress("10.0.0.1")


def refuse(reason, listen):
    """Loading fails for that reason, and nothing stays open or mapped."""

    def held():
        gc.collect()
        with open("/proc/self/maps") as maps:
            return os.listdir("/proc/self/fd"), sum("bpf-map" in line for line in maps)

    before = held()
    with pytest.raises(OffloadError, match=f"^{reason}$"):
        Programs(Config(listen=(listen,), lowest_port=30000, highest_port=30099))
    assert held() == before


def test_nothing_is_left_when_memory_is_short(monkeypatch):
    def map_nothing(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("rtpproxy.offload.maps.mmap.mmap", map_nothing)
    refuse("cannot map the tables: Cannot allocate memory", ANY)


def test_nobody_is_expected_at_a_port_that_is_closed():
    """Else the phone of the call before would be one of the next call's."""
    with contextlib.closing(Programs(Config(listen=(ANY,), lowest_port=30000, highest_port=30099))) as programs:
        sources = programs.tables.sources
        for port, component, most in (
            (30000, Component.RTP, UNNUMBERED_PER_SECOND),
            (30001, Component.RTCP, RTCP_PER_SECOND),
        ):
            programs.mark(port, True)
            programs.expect(port, KnownSource("192.0.2.1", 4000, True, 7), component)
            at = sources.row(port)
            assert (sources._sources.column("most")[at], sources._sources.column("is_known")[at]) == (most, 1)
            programs.mark(port, False)
            assert (sources._sources.column("most")[at], sources._sources.column("is_known")[at]) == (0, 0)


def programs_of(mode=OffloadMode.AUTO):
    """The programs, and the IDs that were told of them, each time there was one more."""
    noted = []
    config = Config(listen=(ANY,), lowest_port=30000, highest_port=30099, offload=mode)
    return contextlib.closing(Programs(config, lambda ids: noted.append(tuple(ids)))), noted


def test_programs_are_loaded_when_they_are_needed():
    """Those for TC cost a third of a start's processor time, and most hosts never need them."""
    context, noted = programs_of()
    with context as programs:
        assert noted == []
        on_interfaces = programs.on_interfaces
        xdp = on_interfaces.xdp.id
        assert noted == [(xdp,)]
        tc = on_interfaces.tc.id
        assert (on_interfaces.xdp.id, on_interfaces.tc.id) == (xdp, tc)
        assert noted == [(xdp,), (xdp, tc)]


def test_programs_are_loaded_in_a_thread_while_calls_are_up():
    """Told of before it is attached, once, and in the event loop; and nobody need wait for it."""
    context, noted = programs_of()
    tried = []

    async def main(programs):
        background = Background(asyncio.get_running_loop())
        xdp = programs.on_interfaces.xdp
        done = asyncio.Event()

        def on_tried():
            tried.append((xdp.id, tuple(noted)))
            done.set()

        programs.load_by(background, on_tried)
        for _ in range(2):
            with pytest.raises(BeingLoadedError):
                xdp.load()
        assert noted == []
        async with asyncio.timeout(DEADLINE_S):
            await done.wait()
        background.close()

    with context as programs:
        asyncio.run(main(programs))
        assert tried == [(programs.on_interfaces.xdp.id, ((programs.on_interfaces.xdp.id,),))]
        assert len(programs._traced._links) == len(loader.TRACEPOINTS)


def test_relay_that_stops_while_a_program_is_loaded():
    """The thread is waited for, and what it loaded is let go."""

    async def main(programs):
        background = Background(asyncio.get_running_loop())
        programs.load_by(background, lambda: pytest.fail("told after the end"))
        with pytest.raises(BeingLoadedError):
            programs.on_interfaces.tc.load()
        background.close()
        await asyncio.sleep(0)

    before = set(os.listdir("/proc/self/fd"))
    context, noted = programs_of()
    with context as programs:
        asyncio.run(main(programs))
    assert (set(os.listdir("/proc/self/fd")), noted) == (before, [])


def test_error_of_the_thread_is_told_even_if_nobody_waits_any_more(monkeypatch, caplog):
    def load(_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(loader, "load_program", load)
    context, noted = programs_of()
    runner, tried = Later(), []
    with context as programs:
        programs.load_by(runner, lambda: tried.append(True))
        with pytest.raises(BeingLoadedError):
            programs.on_interfaces.tc.load()
        runner.do_one()
        (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert told == "cannot load the program for TC: Cannot allocate memory"
        assert (tried, noted) == ([True], [])


@pytest.mark.parametrize(
    ("mode", "count"), [(OffloadMode.AUTO, 3), (OffloadMode.XDP, 1), (OffloadMode.TC, 1), (OffloadMode.OFF, 0)]
)
def test_what_the_mode_can_use_is_loaded_while_the_privilege_lasts(mode, count):
    """With `-u` it will be gone."""
    context, noted = programs_of(mode)
    runner, tried = Later(), []
    with context as programs:
        programs.load_by(runner, lambda: tried.append(True))
        programs.load_rest()
        assert noted == []
        while runner.waiting:
            runner.do_one()
        assert (len(tried), len(noted)) == (count, count)
        programs.load_rest()
        assert runner.waiting == []


@pytest.mark.parametrize("is_loaded_by_thread", [False, True])
@pytest.mark.parametrize("refused", ["XDP", "TC"])
def test_program_that_the_kernel_refuses(monkeypatch, caplog, refused, is_loaded_by_thread):
    """It is an error in the log, once, and not tried again; the others are not lost."""
    real, tried = loader.load_program, []

    def load(program):
        tried.append(program.name)
        if program.kind == {"XDP": 6, "TC": 3}[refused]:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(program)

    monkeypatch.setattr(loader, "load_program", load)
    context, noted = programs_of()
    with context as programs:
        if is_loaded_by_thread:
            runner = Later()
            programs.load_by(runner, lambda: None)
            programs.load_rest()
            while runner.waiting:
                runner.do_one()
        on_interfaces = programs.on_interfaces
        by_kind = {"XDP": [on_interfaces.xdp], "TC": [on_interfaces.tc, on_interfaces.tc_behind_xdp]}
        for _ in range(2):
            for program in by_kind[refused]:
                with pytest.raises(OffloadError, match=f"^cannot load the program for {refused}: Invalid argument"):
                    program.load()
        for kind, found in by_kind.items():
            if kind != refused:
                assert all(program.load() >= 0 for program in found)
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == len(by_kind[refused])
        assert len(noted[-1]) == 3 - len(by_kind[refused])
        assert len(tried) == len(set(tried))


def test_program_that_there_was_no_memory_for_is_tried_again(monkeypatch):
    real, answers = loader.load_program, [OSError(errno.ENOMEM, "Cannot allocate memory")]

    def load(program):
        if answers:
            raise answers.pop()
        return real(program)

    monkeypatch.setattr(loader, "load_program", load)
    context, _ = programs_of()
    with context as programs:
        with pytest.raises(OffloadError, match="Cannot allocate memory"):
            programs.on_interfaces.xdp.load()
        assert programs.on_interfaces.xdp.load() >= 0
        assert len(programs._traced._links) == len(loader.TRACEPOINTS)


def test_each_reason_is_told_once(monkeypatch, caplog):
    """What passed says nothing about what stays."""
    numbers, tried = [errno.ENOMEM, errno.ENOMEM, errno.EINVAL], []

    def load(program):
        tried.append(program.name)
        number = numbers.pop(0)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(loader, "load_program", load)
    context, _ = programs_of()
    with context as programs:
        for _ in range(5):
            with pytest.raises(OffloadError):
                programs.on_interfaces.xdp.load()
    memory, refusal = (record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    assert memory == "cannot load the program for XDP: Cannot allocate memory"
    assert refusal.startswith("cannot load the program for XDP: Invalid argument")
    assert len(tried) == 3


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_machines_with_another_order_of_stores_are_refused(monkeypatch, machine):
    """Rows are written with plain stores; and nothing is left when an address cannot be written."""
    other = os.uname_result((*os.uname()[:4], machine))
    monkeypatch.setattr(os, "uname", lambda: other)
    refuse(f"only x86-64 is supported, and this machine is {machine}", ONE)


def test_instance_has_a_name_of_its_own():
    """Short enough for the name of a program, and the same for the same control socket."""
    names = [instance_name(Config(control=(ControlAddress(ControlKind.UNIX, path),))) for path in ("/a", "/b", "/a")]
    assert names[0] == names[2] != names[1]
    assert [len(name) for name in names] == [8, 8, 8]


@pytest.mark.parametrize(
    ("ports", "next_hops"),
    [(2, 256), (1000, 500), (30_002, 15_001), (64_512, 32_256), (2 * 65_536, 65_536), (10**6, 65_536)],
)
def test_room_for_next_hops(ports, next_hops):
    """A flat network's 30,000 phones with all ports above 1023; little where there are few ports."""
    assert next_hops_of(ports) == next_hops


def test_room_for_next_hops_goes_by_the_ports():
    config = Config(listen=(ONE,), lowest_port=30000, highest_port=31999)
    with contextlib.closing(Programs(config)) as programs:
        assert programs.tables.next_hops.capacity == 1000
