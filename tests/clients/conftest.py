"""For test_kamailio*.py: a relay, Kamailio and two phones, whose logs are shown with a test that fails."""

import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from tests.clients.kamailio import USUAL_FLAGS, ControlTap, Kamailio
from tests.clients.sipp import SIP_PORT
from tests.netns import Topology
from tests.netns_call.call import allow_refusals
from tests.running import RunningRelay

CONTROL_PORT = 22222
_EVIDENCE_BYTES = 6000


def _is_with_kamailio(item: pytest.Item) -> bool:
    return item.path.parent == Path(__file__).parent and item.path.name.startswith("test_kamailio")


def pytest_collection_modifyitems(items):
    for item in items:
        if _is_with_kamailio(item):
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.kernel)


@functools.cache
def _missing_programs() -> str:
    missing = [name for name in ("kamailio", "sipp") if shutil.which(name) is None]
    return f"needs software: {', '.join(missing)}" if missing else ""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip before any fixture is set up."""
    if _is_with_kamailio(item) and _missing_programs():
        pytest.skip(_missing_programs())


class Witness(Protocol):
    def evidence(self) -> str: ...


@dataclass
class Setting:
    """The network and the programs of a call. When a test fails, the witnesses that it named are shown, too."""

    topology: Topology
    relays: list[RunningRelay]
    kamailio: Kamailio
    hosts: tuple[str, str]
    """Addresses of the relay: what the callee, and what the caller, should be told."""
    tap: ControlTap | None = None
    recordings: Path | None = None
    witnesses: list[Witness] = field(default_factory=list)

    @property
    def relay(self) -> RunningRelay:
        return self.relays[0]

    @property
    def proxy(self) -> str:
        """Where the caller's phone sends its SIP."""
        return f"{self.topology.caller.gateway.ip}:{SIP_PORT}"

    def evidence(self) -> str:
        """The ends of what everybody said."""
        parts = [f"relay:\n{relay.log[-_EVIDENCE_BYTES:]}" for relay in self.relays]
        for witness in (self.kamailio, self.tap, *self.witnesses):
            if witness is not None:
                parts.append(f"{type(witness).__name__}:\n{witness.evidence()}")
        return "\n\n".join(parts)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed and call.when == "call":
        for value in item.funcargs.values():
            if isinstance(value, Setting):
                report.sections.append(("what was said", value.evidence()))
    return report


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with Topology() as topology:
        allow_refusals(topology.relay)
        yield topology


@pytest.fixture(scope="module", params=["udp", "unix"])
def shared_setting(request, topology, tmp_path_factory) -> Iterator[Setting]:
    """One relay: asked over UDP, on all addresses, which Kamailio picks from; or asked over unix and on one address."""
    directory = tmp_path_factory.mktemp(request.param)
    host, to_caller, to_callee = topology.relay, topology.caller.gateway.ip, topology.callee.gateway.ip
    is_udp = request.param == "udp"
    options = ("-s", f"udp:127.0.0.1:{CONTROL_PORT}", "-F") if is_udp else ("-l", to_caller)
    recordings = directory / "recordings"
    recordings.mkdir()
    options += ("-r", str(recordings))
    (directory / "music.0").write_bytes(bytes(range(240)))
    with RunningRelay(directory, *options, host=host) as relay, ControlTap(host, CONTROL_PORT) as tap:
        kamailio = Kamailio(
            host,
            directory,
            ips=[to_caller, to_callee],
            relays=[f"udp:127.0.0.1:{CONTROL_PORT}" if is_udp else f"unix:{relay.socket_path}"],
            callee=topology.callee.ip,
            offer=(USUAL_FLAGS, to_callee) if is_udp else (USUAL_FLAGS,),
            answer=(USUAL_FLAGS, to_caller) if is_udp else (USUAL_FLAGS,),
            music=str(directory / "music"),
        )
        with kamailio:
            hosts = (to_callee, to_caller) if is_udp else (to_caller, to_caller)
            yield Setting(topology, [relay], kamailio, hosts, tap if is_udp else None, recordings)


@pytest.fixture
def setting(shared_setting) -> Iterator[Setting]:
    """The shared one, without sessions. Kamailio must have nothing to complain of."""
    shared_setting.witnesses.clear()
    complaints = len(shared_setting.kamailio.complaints)
    yield shared_setting
    shared_setting.relay.ask("X")
    assert shared_setting.kamailio.complaints[complaints:] == []


@pytest.fixture
def start() -> Iterator[Callable]:
    """Starts user agents, which end with the test, and are asked for evidence when it fails."""
    agents = []

    def start(setting, agent):
        agents.append(agent)
        setting.witnesses.append(agent)
        return agent.__enter__()

    yield start
    for agent in reversed(agents):
        agent.__exit__()
