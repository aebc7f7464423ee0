"""In which order a relay starts; process/test_daemon and netns_call/test_leftovers start real ones."""

import contextlib
import logging
from types import SimpleNamespace

import pytest

from rtpproxy.config import Config, ListenAddress, OffloadMode
from rtpproxy.instance.start import start, warnings
from rtpproxy.instance.stop import Stop
from rtpproxy.session.local import LocalAddress


class Stage:
    """Parts that only note what is asked of them."""

    def __init__(self, *, offload=OffloadMode.OFF, why_no_bpf="", why_no_note="", exposed=()):
        self.journal = []

        def note(what):
            return lambda *_, **__: self.journal.append(what)

        dead = SimpleNamespace(contents=None, remove=note("remove the note of a dead relay"))
        self.parts = SimpleNamespace(
            config=Config(listen=(ListenAddress("127.0.0.1"),), offload=offload),
            service=SimpleNamespace(control_is_at=note("keep media from control sockets")),
            host_networks=SimpleNamespace(start=note("follow addresses")),
            local_addresses=SimpleNamespace(known=[LocalAddress(0, "127.0.0.1")]),
            ports=SimpleNamespace(
                claims=SimpleNamespace(add=note("claim ports")), programs=None, why_no_bpf=why_no_bpf
            ),
            notes=SimpleNamespace(dead=lambda: [dead], ours=SimpleNamespace(why_not=why_no_note)),
            kernel=SimpleNamespace(start=note("attach programs")),
            dispatcher=SimpleNamespace(execute=None, count_repeated=None),
            server=SimpleNamespace(
                endpoints=[],
                opened=["udp:127.0.0.1:22222"],
                open_to_strangers=exposed,
                serve=note("answer commands"),
                stop=note("read no more commands"),
            ),
        )

    def start(self):
        with contextlib.ExitStack() as stack:
            start(self.parts, Stop(lambda number: None), stack)


def test_nothing_of_others_is_touched_before_ports_are_claimed_and_commands_come_last():
    stage = Stage()
    stage.start()
    assert stage.journal == [
        "keep media from control sockets",
        "follow addresses",
        "claim ports",
        "remove the note of a dead relay",
        "attach programs",
        "answer commands",
        "read no more commands",
    ]


@pytest.mark.parametrize(("mode", "level"), [(OffloadMode.OFF, logging.WARNING), (OffloadMode.AUTO, logging.ERROR)])
def test_who_asked_for_the_kernel_is_told_why_it_does_nothing(caplog, mode, level):
    with caplog.at_level(logging.INFO):
        Stage(offload=mode, why_no_bpf="no privilege").start()
    text = "ports are bound, and userspace relays everything: BPF cannot be used: no privilege"
    assert ("rtpproxy.instance.start", level, text) in caplog.record_tuples


def test_what_serves_is_told(caplog):
    with caplog.at_level(logging.INFO):
        Stage(why_no_note="read-only").start()
    assert caplog.messages[:2] == [
        "control socket udp:127.0.0.1:22222",
        "media ports 35000-64999 on 127.0.0.1, bound",
    ]
    assert caplog.messages[2].startswith("no note of this relay is kept (read-only)")


def test_control_sockets_for_anybody_are_warned_of():
    assert warnings(Stage().parts) == []
    (warning,) = warnings(Stage(exposed=["udp:*:22222"]).parts)
    assert warning.startswith("commands on udp:*:22222 are taken from anybody")
