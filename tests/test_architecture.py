"""Which room may import which, and what is allowed in one place only, read from the sources.

5  cli -> process -> instance                     composition: these put the parts together
4  control   modules                              front ends, observers: they know the service, which never knows them
3  service                                        use cases: adapters come as arguments
2  media   offload -> network   outbound   recording   playback   adapters: sockets, files, bcc, netlink; no use case
   media -> notes                                 notes: what a relay tells other relays of the host
1  session -> rtp                                 pure
   makeann                                        a command of its own, which no other room knows
0  addr  errors  config  seldom  buffers  trust   shared by all rooms

A room may import the lowest floor and, of the rooms on other lower floors, those in `KNOWS`; `ALSO` lists all other
imports. `buffers` sets an option of a socket that it is given; it is on the lowest floor because media, network and
control need it, and these know nothing else in common; `trust` is there for notes and offload. The pure rooms know
neither.
"""

import ast
import functools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rtpproxy"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}

WORDS = {"addr", "errors", "config", "seldom"}
KNOWS = {
    "errors": set(),
    "config": set(),
    "addr": set(),
    "seldom": set(),
    "buffers": set(),
    "trust": set(),
    "rtp": set(),
    "session": {"rtp"},
    "notes": {"trust"},
    "media": {"session", "buffers", "notes"},
    "network": {"buffers"},
    "offload": {"rtp", "session", "network", "trust"},
    "outbound": set(),
    "recording": {"rtp", "session", "buffers"},
    "playback": {"rtp"},
    "makeann": set(),
    "service": {"rtp", "session"},
    "control": {"session", "service", "buffers"},
    "modules": {"rtp", "session", "service"},
    "instance": {
        *("session", "media", "network", "notes", "offload", "outbound", "recording", "playback", "service", "control"),
        "modules",
    },
    "process": {"instance"},
    "cli": {"process"},
    "__main__": {"cli"},
}
"""Which rooms a room may import, beside itself and, from higher floors, those in `WORDS`.

A room is a folder, or a file at the top of the package.
"""
_INTERFACE_ADDRESSES = "`-l eth0` is refused with the addresses of that interface"
ALSO = {
    ("service.offloading", "offload.entry"): "what the kernel should do for a session is worked out from values only",
    ("instance.build", "process.privileges"): "control sockets and notes are handed to the user of `-u`",
    ("instance.serve", "process.signals"): "signals ask the relay to stop",
    ("recording.reader", "process.privileges"): "it is a process of its own, and gives up its privileges",
    ("recording.reader", "process.clock"): "it is a process of its own, and its clock may not be the kernel's",
    ("recording.collector", "outbound.backlog"): "packets wait for a collector as notifications do for their targets",
    ("modules.acct_rtcp_hep", "recording.collectors"): "the settings of a tap are for what looks at its packets",
    ("cli.command", "control.messages"): "`-v` prints the versions of the protocol",
    ("cli.host", "network.addresses"): _INTERFACE_ADDRESSES,
    ("cli.host", "network.netlink"): _INTERFACE_ADDRESSES,
}
"""Imports that `KNOWS` does not allow, and why they are there."""
COMPOSITION = {"__main__", "cli.command", "process.daemon", "instance.serve"}
CORE = {"addr", "errors", "config", "seldom", "rtp", "session", "service"}
"""Rooms without I/O, where nothing happens on import."""
PURE_MODULES = {
    *("control.cookies", "control.dispatch", "control.execute", "control.messages", "control.modifiers"),
    *("control.parser", "control.replies", "network.vlan", "offload.entry", "outbound.backlog"),
    *("offload.btf", "offload.contradictions", "offload.patience", "offload.progress", "offload.refusing"),
    *(
        "cli.media_addresses",
        "cli.modules",
        "cli.networks",
        "cli.options",
        "cli.ucl",
        "cli.readers",
        "media.age_limit",
        "media.ranges",
    ),
    *("notes.contents", "control.modules"),
    *("modules.catch_dtmf", "modules.module", "modules.records", "modules.registry"),
    *("playback.budget", "playback.frames", "playback.player", "playback.wheel"),
    *("recording.adhoc", "recording.arrivals", "recording.formats", "recording.frames", "recording.merge"),
    *("recording.messages", "recording.names", "recording.packet", "recording.pcap", "recording.pcapng"),
    *("recording.wall_clock", "makeann.resampler"),
    *("recording.dtmf", "recording.live_output", "recording.tap_output"),
    *("recording.hep", "recording.rtcp_json"),
}
"""Single files of other rooms without I/O."""

PURE_STANDARD = {
    *("array", "bisect", "collections", "dataclasses", "enum", "functools", "ipaddress", "itertools", "json", "math"),
    *("operator", "random", "re", "struct", "textwrap", "typing"),
}
IO_STANDARD = {
    *("asyncio", "contextlib", "ctypes", "errno", "fcntl", "hashlib", "logging", "mmap", "os", "pathlib"),
    *("grp", "importlib", "pwd", "resource", "select", "signal", "socket", "stat", "subprocess", "sys", "termios"),
    "weakref",
}
LOGS = {
    *("service.sessions", "service.legs", "service.port_pairs", "service.events", "service.notification"),
    *("service.destinations", "service.contests", "service.recordings", "service.feeds", "service.taps"),
    *("service.playback", "service.overload"),
    *("control.dispatch", "modules.catch_dtmf"),
}
"""Modules without I/O that may log."""

FOREIGN = {
    "bcc": {"offload.compiler"},
    "click": {"cli.command", "makeann.command"},
    "concurrent": {"network.background"},
    "numpy": {
        *("offload.maps", "offload.counters", "session.reaper", "service.offloading"),
        *("makeann.codecs", "makeann.g729", "makeann.prompts", "makeann.resampler", "makeann.sounds"),
    },
    "G722": {"makeann.codecs"},
    "soundfile": {"makeann.codecs", "makeann.sounds"},
    "soxr": {"makeann.resampler"},
    "pyroute2": {"network.rtnl"},
    "threading": {"recording.disk", "recording.resolving", "playback.disk", "modules.appender"},
    "uvloop": {"process.daemon"},
    "urllib": {"service.notification"},
    "time": {"process.daemon", "recording.reader"},
    "gc": {"process.daemon"},
}
PACKERS = {
    "offload.compiled": "instructions that name maps",
    "offload.layout": "keys and values of maps: nothing else turns members into their bytes",
    "offload.maps": "numbers of a mapped array, where its layout has them",
    "offload.network_order": "addresses and tags, as they are on the wire",
    "offload.programs": "words of IPv6 addresses, as macros",
    "offload.syscall": "the attributes of bpf(2)",
    "network.netlink": "headers of netlink messages",
    "network.messages": "messages of rtnetlink, of which there may be very many",
    "notes.lock": "the argument of fcntl(2)",
    "network.features": "messages of generic netlink",
    "network.queues": "the answer of an ioctl",
    "offload.btf": "the kernel's description of its types",
    "media.sending": "UDP headers, and options of sockets",
    "media.receive_buffer": "timestamps, and what the kernel tells of a socket's memory",
    "media.receiving": "the zone of a link-local address",
    "recording.adhoc": "headers of RTPproxy's own format",
    "recording.frames": "Ethernet, IP and UDP headers",
    "recording.messages": "messages to a process of ours",
    "recording.pcap": "headers of pcap files",
    "recording.pcapng": "blocks of pcapng files",
    "recording.reader": "descriptors beside a message",
    "makeann.sounds": "samples of a headerless file",
    "rtp.header": "RTP headers",
    "rtp.telephone_events": "payloads of telephone events, and what is told of them to another process",
    "rtp.rtcp": "RTCP packets",
    "recording.collector": "the answer of an ioctl",
    "recording.collectors": "the settings of a tap",
    "recording.hep": "chunks of HEP packets",
    "outbound.channel": "the answer of an ioctl",
    "session.reaper": "its own arrays, which it works on as a whole",
    "recording.ring": "positions and headers of the kernel's ring",
    "addr": "words of IPv6 addresses",
}
"""Modules that pack and unpack bytes by hand (`struct` and `BYTES`), and which."""
BYTES = {"to_bytes", "from_bytes", "frombuffer", "cast"}
TYPES_ONLY = {"service.offloading": "numpy", "offload.counters": "numpy"}
"""Modules that use a library in annotations only."""

SENDS_NO_MEDIA = {"control", "network", "outbound", "process"}
"""Rooms whose sockets are for replies, questions to the kernel, notifications and the log."""
SENDS_AS_TOLD = {"media", "recording", "playback"}
"""Rooms that send media, copies and prompts where a `Line` or an argument of the service says: it has asked."""

BROAD = {
    "offload.compiler": "a process of its own ends; the exception is raised again",
    "process.daemon": "a process of its own ends; the exception is raised again",
    "recording.disk": "a thread ends; the exception is told and raised again",
    "service.events": "an observer may fail in any way, which is logged: no call and no other observer suffers",
}
"""Where any exception is caught, and why."""

_REAL_KERNEL = "needs the real kernel: netns_call, offload/test_attach and media/test_steered drive it"
_RECORDER = "recording/test_recorder runs the process"
_SERVICE = "a part of the service: tests/service"
_STEERED = "a half of media.steered: media/test_steered drives it with the real program"
UNTESTED = {
    "__main__": "calls cli.early and cli.command; process/test_daemon runs it",
    "errors": "names only",
    "control.execute": "a limit and the name of a type: test_connections and test_datagrams",
    "control.modules": "words without rules: test_parser and test_dispatch",
    "modules.module": "a base that refuses: modules/test_registry",
    "control.messages": "values without rules: test_parser makes them, test_replies reads their numbers",
    "service.requests": "values without rules: control/test_parser makes them, tests/service executes them",
    "service.answers": "values without rules: tests/service",
    "service.sessions": _SERVICE,
    "service.legs": _SERVICE,
    "service.offloading": _SERVICE,
    "service.packets": _SERVICE,
    "service.port_pairs": _SERVICE,
    "instance.serve": "process/test_daemon runs it",
    "service.witnesses": _SERVICE,
    "media.receiving": _STEERED,
    "media.sending": _STEERED,
    "network.features": _REAL_KERNEL,
    "network.vlan": "words only",
    "offload.syscall": _REAL_KERNEL,
    "recording.packet": "values without rules: all tests of formats",
    "recording.reader_process": _RECORDER,
    "recording.supervisor": _RECORDER,
    "recording.carrier": "recording/test_recorder and test_copier run the process",
    "recording.recording": "state without rules: recording/test_recorder",
    "recording.live_output": "recording/test_copy_output and test_tap_output",
    "recording.handlers": "a list: recording/test_tapper runs what it names",
    "recording.taken": "state without rules: recording/test_recorder and test_copier",
    "session.session": "values without rules: tests/service",
}
"""Modules without a test file of their name, and why."""


@functools.cache
def tree(module):
    return ast.parse(MODULES[module].read_text())


@functools.cache
def imports(module):
    """List every module that a source imports, ours without the package's name."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole.removeprefix("rtpproxy.") in MODULES else node.module)
    return {name.removeprefix("rtpproxy.") for name in found}


def of_us(module):
    return {name for name in imports(module) if name in MODULES}


def outside(module):
    """List the top packages of what a module imports from elsewhere."""
    return {name.split(".")[0] for name in imports(module) if name not in MODULES}


def room(module):
    return module.split(".")[0]


def is_pure(module):
    return room(module) in CORE or module in PURE_MODULES


def test_every_room_is_known():
    assert {room(module) for module in MODULES} == KNOWS.keys()
    assert MODULES.keys() >= PURE_MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_of_us(module):
    for name in of_us(module):
        is_known = room(name) in KNOWS[room(module)] | {room(module)} or (module, name) in ALSO
        is_word = room(name) in WORDS and room(module) not in WORDS | {"buffers"}
        assert is_known or is_word, f"{module} may not import {name}"


def test_exceptions_are_still_imported():
    assert [pair for pair in ALSO if pair[1] not in of_us(pair[0])] == []


def test_rooms_know_no_more_than_they_use():
    used = {(room(module), room(name)) for module in MODULES for name in of_us(module) if (module, name) not in ALSO}
    assert {(one, other) for one, others in KNOWS.items() for other in others} - used == set()


def test_composition_is_one_chain():
    """Each is imported by the one before it only."""
    importers = {name: {module for module in MODULES if name in of_us(module)} for name in COMPOSITION}
    assert importers == {
        "instance.serve": {"process.daemon"},
        "process.daemon": {"cli.command"},
        "cli.command": {"__main__"},
        "__main__": set(),
    }


def test_nothing_is_imported_in_a_circle():
    left = {module: of_us(module) for module in MODULES}
    while ready := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in ready:
            del left[module]
    assert left == {}


@pytest.mark.parametrize("module", MODULES)
def test_imports_from_outside(module):
    for name in outside(module):
        if name in FOREIGN:
            assert module in FOREIGN[name], f"{name} has no place in {module}"
        else:
            assert name in sys.stdlib_module_names
            is_allowed = name in PURE_STANDARD or (not is_pure(module) and name in IO_STANDARD)
            assert is_allowed or (name == "logging" and module in LOGS), f"{name} has no place in {module}"


@pytest.mark.parametrize("name", FOREIGN)
def test_lists_of_places_are_not_longer_than_needed(name):
    assert {module for module in MODULES if name in outside(module)} == FOREIGN[name]


def test_bytes_are_packed_in_few_places():
    """So that no layout of a map is stated a second time, least of all in numbers."""

    def is_packer(module):
        attributes = {node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)}
        return "struct" in outside(module) or bool(attributes & BYTES)

    assert {module for module in MODULES if is_packer(module)} == PACKERS.keys()


@pytest.mark.parametrize(("module", "package"), TYPES_ONLY.items())
def test_named_in_annotations_only(module, package):
    parsed = tree(module)
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(parsed)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.split(".")[0] == package
    }
    annotations = [
        annotation
        for node in ast.walk(parsed)
        if isinstance(node, ast.FunctionDef | ast.arg | ast.AnnAssign)
        for annotation in [node.returns if isinstance(node, ast.FunctionDef) else node.annotation]
        if annotation is not None
    ]
    in_annotations = {id(part) for annotation in annotations for part in ast.walk(annotation)}
    for node in ast.walk(parsed):
        if isinstance(node, ast.Name) and node.id in aliases:
            assert id(node) in in_annotations, f"{module}:{node.lineno} uses {node.id}"


def test_who_sends_media_asks_where_it_may_go():
    """Others send as they are told; so must those ask who tell them, for copies and prompts, too (docs/security.md)."""

    def sends(module):
        calls = (node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call))
        is_told = any(isinstance(node, ast.FunctionDef) and node.name == "to" for node in ast.walk(tree(module)))
        sending = "send", "sendto", "sendmsg"
        return is_told or any(isinstance(call, ast.Attribute) and call.attr in sending for call in calls)

    senders = {module for module in MODULES if room(module) not in SENDS_NO_MEDIA | SENDS_AS_TOLD and sends(module)}
    senders.remove("service.witnesses")  # describes who is asked
    assert {"service.packets", "service.copies", "service.feeds", "service.playback"} <= senders
    assert [module for module in senders if "service.destinations" not in of_us(module)] == []


def handlers(module):
    return [node for node in ast.walk(tree(module)) if isinstance(node, ast.ExceptHandler)]


def is_broad(handler):
    assert handler.type is not None, f"line {handler.lineno}: bare except"
    names = {part.id for part in ast.walk(handler.type) if isinstance(part, ast.Name)}
    return bool(names & {"Exception", "BaseException"})


@pytest.mark.parametrize("module", MODULES)
def test_exceptions_are_caught_by_name(module):
    """Broad handlers stand where `BROAD` says, one each."""
    broad = [handler for handler in handlers(module) if is_broad(handler)]
    assert len(broad) == (module in BROAD)
    if broad and module != "service.events":
        assert isinstance(broad[0].body[-1], ast.Raise)


@pytest.mark.parametrize("module", MODULES)
def test_no_handler_only_passes(module):
    for handler in handlers(module):
        assert not all(isinstance(step, ast.Pass) for step in handler.body), f"{module}:{handler.lineno}"


@pytest.mark.parametrize("module", [module for module in MODULES if is_pure(module)])
def test_core_modules_only_define(module):
    """On import, only constants are worked out."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Expr)
    for node in tree(module).body:
        assert isinstance(node, allowed), f"{module}:{node.lineno}"
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{module}:{node.lineno}: a call"


# Tests


def test_file_of(module):
    """Name the test file of a module, or the folder of that name if one file would be too long."""
    *folders, name = module.split(".")
    folder = ROOT / "tests" / Path(*folders)
    whole = folder / name / "__init__.py"
    return whole if whole.is_file() else folder / f"test_{name}.py"


test_file_of.__test__ = False


@pytest.mark.parametrize("module", sorted(MODULES.keys() - UNTESTED.keys()))
def test_module_has_a_test_file_of_its_name(module):
    assert test_file_of(module).is_file()


def test_exceptions_are_still_needed():
    assert UNTESTED.keys() <= MODULES.keys()
    assert [module for module in UNTESTED if test_file_of(module).is_file()] == []


@pytest.mark.parametrize(
    "folder",
    [
        *("cli", "control", "instance", "makeann", "media", "modules", "network", "notes", "offload", "outbound"),
        *("playback", "process", "recording", "rtp", "session"),
    ],
)
def test_test_files_are_named_for_a_module(folder):
    others = {"control": {"test_transcript.py"}, "recording": {"test_model.py"}}.get(folder, set())
    files = {path.name for path in (ROOT / "tests" / folder).glob("test_*.py")} - others
    assert files <= {f"test_{path.name}" for path in (PACKAGE / folder).glob("*.py")}


def test_tests_do_not_sleep():
    """Exceptions: the helper that waits for something outside the process, and tests that show time."""
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name in ("waiting.py", "transcript.py", "demo.py") or "bench" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "sleep":
                assert isinstance(node.value, ast.Name), path
                assert node.value.id != "time", f"{path}:{node.lineno}"


def test_tests_use_no_mocks():
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not any("mock" in name for name in names), f"{path}:{node.lineno}"
