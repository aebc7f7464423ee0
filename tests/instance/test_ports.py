"""Steered ports, bound ones in their place, and why; process/test_daemon and test_mistakes use the real BPF."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from rtpproxy.config import Config, ListenAddress, OffloadMode, PortsMode
from rtpproxy.errors import OffloadError, StartError
from rtpproxy.instance import ports as module
from rtpproxy.instance.ports import build_kernel, build_ports
from rtpproxy.media.bound import BoundMedia
from rtpproxy.media.sockets import route_source
from rtpproxy.network.background import Background
from rtpproxy.notes.notes import Notes
from rtpproxy.notes.place import here
from rtpproxy.offload.off import NoKernelTier
from rtpproxy.session.local import LocalAddresses
from tests.fakes import no_limit

CONFIG = Config(listen=(ListenAddress("127.0.0.1"),))


def refuse(*_):
    raise OffloadError("no BPF here")


def build(config, use=lambda ports, stack: None):
    """Build the ports of a relay, use them, and take them down."""

    async def run():
        with contextlib.ExitStack() as stack:
            notes = Notes([], here)
            stack.callback(notes.close)
            local_addresses = LocalAddresses(config.listen, config.is_bridging, route_source)
            ports = build_ports(config, notes, local_addresses, lambda *_: None, no_limit(lambda: 0.0), stack)
            use(ports, stack)
            return ports

    return asyncio.run(run())


@pytest.fixture
def no_bpf(monkeypatch):
    monkeypatch.setattr(module, "Programs", refuse)


def test_ports_are_bound_where_bpf_cannot_be_used(no_bpf):
    ports = build(CONFIG)
    assert isinstance(ports.media, BoundMedia)
    assert (ports.programs, ports.why_no_bpf) == (None, "no BPF here")


def test_ports_are_bound_if_that_is_wanted():
    ports = build(replace(CONFIG, ports=PortsMode.BOUND))
    assert isinstance(ports.media, BoundMedia)
    assert (ports.programs, ports.why_no_bpf) == (None, "")


@pytest.mark.parametrize("wanted", [{"ports": PortsMode.STEERED}, {"offload": OffloadMode.XDP}])
def test_what_needs_bpf_is_refused_without_it(no_bpf, wanted):
    with pytest.raises(StartError, match="BPF cannot be used: no BPF here"):
        build(replace(CONFIG, **wanted))


@pytest.mark.parametrize(("mode", "why"), [(OffloadMode.OFF, "--offload off"), (OffloadMode.AUTO, "BPF is not used")])
def test_bound_ports_have_no_kernel_tier(no_bpf, mode, why):
    config, built = replace(CONFIG, offload=mode), []

    def use(ports, stack):
        background = Background(asyncio.get_running_loop())
        stack.callback(background.close)
        built.append(build_kernel(config, ports, background, lambda: built.append("end"), stack))

    build(config, use)
    (kernel,) = built
    assert isinstance(kernel, NoKernelTier)
    assert kernel.forwarder.rest == why
