"""Who may import whom, and what else is allowed in one place only, read from the sources.

4  cli -> daemon -> relay -> kernel         composition: these put the parts together
3  control.{server,listening,streams,datagrams}  notify  privileges  limits  manual  syslog
   media.{steered,bound,portrange,sockets}  adapters: sockets, files, bcc, netlink; they know no use case
   offload.{forwarder,nexthop,attach,clsact,links,addresses,netlink,tables,loader,syscall,off}
2  service -> packets -> offloading         use cases: adapters come as arguments
   service -> portpairs  control.dispatch
1  session.*  control.{messages,replies,modifiers,parser,cookies}  media.rtp  offload.entry  listen  options
0  addr  errors  config                     words
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

LEVELS = {
    0: {"addr", "errors", "config"},
    1: {
        *("session.session", "session.table", "session.latch", "session.ports", "session.reaper", "session.stats"),
        *("session.local", "session.loops", "session.totals", "listen", "options", "media.rtp", "offload.entry"),
        *("control.messages", "control.replies", "control.modifiers", "control.parser", "control.cookies"),
    },
    2: {"service", "offloading", "packets", "portpairs", "control.dispatch"},
    3: {
        *("control.server", "control.streams", "control.datagrams", "control.listening"),
        *("media.steered", "media.bound", "media.portrange", "media.sockets"),
        *("privileges", "limits", "manual", "notify", "syslog"),
        *("offload.forwarder", "offload.nexthop", "offload.attach", "offload.features", "offload.netlink"),
        *(
            "offload.tables",
            "offload.loader",
            "offload.syscall",
            "offload.off",
            "offload.addresses",
            "offload.clsact",
            "offload.links",
        ),
    },
    4: {"kernel", "relay", "daemon", "cli", "__main__"},
}
LEVEL_OF = {module: level for level, modules in LEVELS.items() for module in modules}

# Apart from what its level allows: an adapter, the use cases and the core import only these of us.
OURS = {
    "addr": {"errors"},
    "errors": set(),
    "config": {"errors"},
    "listen": {"addr", "config", "errors"},
    "options": {"config", "errors"},
    "media.rtp": set(),
    "session.latch": {"addr", "media.rtp"},
    "session.stats": {"media.rtp"},
    "session.session": {"config", "session.latch", "session.local", "session.loops", "session.stats"},
    "session.loops": set(),
    "session.table": {"session.session"},
    "session.local": {"config"},
    "session.totals": {"session.session", "session.stats"},
    "session.ports": set(),
    "session.reaper": set(),
    "control.messages": {"addr", "session.local"},
    "control.replies": {"control.messages", "session.local", "session.totals"},
    "control.modifiers": {"addr", "control.messages", "session.local"},
    "control.parser": {"control.messages", "control.modifiers", "session.local"},
    "control.cookies": set(),
    "offload.entry": {"addr", "session.local", "session.session", "session.stats"},
    "control.dispatch": {
        *("errors", "control.messages", "control.replies", "control.parser"),
        *("session.session", "session.totals"),
    },
    "service": {
        *("addr", "config", "errors", "control.messages", "control.replies"),
        *("offloading", "packets", "portpairs"),
        *("session.latch", "session.local", "session.ports", "session.reaper", "session.session", "session.stats"),
        *("session.table", "session.totals"),
    },
    # The parts of the service: each knows one kind of adapter.
    "portpairs": {"errors", "session.local", "session.ports"},
    "offloading": {
        *("media.rtp", "offload.entry"),
        *("session.session", "session.stats", "session.totals"),
    },
    "packets": {
        *("addr", "config", "media.rtp", "offloading"),
        *("session.latch", "session.loops", "session.reaper", "session.session", "session.totals"),
    },
    "privileges": {"config", "errors"},
    "limits": {"config", "errors"},
    "manual": {"options"},
    "syslog": set(),
    "notify": {"addr", "config"},
    "media.sockets": {"errors", "session.local"},
    "media.steered": {"addr", "errors", "media.sockets", "session.local", "session.session"},
    "media.bound": {"addr", "errors", "media.sockets", "session.local", "session.session"},
    "media.portrange": {"errors", "media.sockets", "session.local"},
    # Beside the words, adapters build only on those of their own folder, and only downwards in this list.
    "control.server": {
        *("config", "errors", "control.cookies"),
        *("control.listening", "control.streams", "control.datagrams"),
    },
    "control.listening": {"config", "errors"},
    "control.streams": set(),
    "control.datagrams": {"control.cookies", "control.streams"},
    "offload.off": {"offload.entry", "session.stats", "session.totals"},
    "offload.forwarder": {"offload.entry", "offload.nexthop", "session.stats", "session.totals"},
    "offload.nexthop": {"addr", "errors", "offload.entry", "offload.attach", "offload.netlink"},
    "offload.addresses": {"errors", "offload.netlink"},
    "offload.attach": {
        *("addr", "config", "errors", "offload.addresses", "offload.clsact", "offload.entry", "offload.features"),
        *("offload.links", "offload.netlink", "offload.syscall"),
    },
    "offload.clsact": {"errors", "offload.netlink"},
    "offload.links": {"errors", "offload.entry", "offload.netlink"},
    "offload.features": set(),
    "offload.netlink": {"errors"},
    "offload.tables": {"addr", "offload.entry", "offload.loader", "offload.syscall", "session.stats"},
    "offload.loader": {"errors"},
    "offload.syscall": {"errors"},
}

PURE_STANDARD = {
    *("array", "collections", "dataclasses", "enum", "ipaddress", "math", "random", "re", "struct", "typing"),
}
IO_STANDARD = {
    *("asyncio", "contextlib", "ctypes", "errno", "fcntl", "hashlib", "json", "logging", "mmap", "os", "pathlib"),
    *("grp", "pwd", "resource", "signal", "socket", "stat", "subprocess", "sys", "termios"),
}
STANDARD_BY_LEVEL = {
    0: PURE_STANDARD,
    1: PURE_STANDARD,
    2: PURE_STANDARD | {"logging"},
    3: PURE_STANDARD | IO_STANDARD,
    4: PURE_STANDARD | IO_STANDARD | {"importlib"},
}

FOREIGN = {
    "bcc": {"offload.loader"},
    "click": {"cli"},
    "numpy": {"offload.tables", "offload.forwarder", "session.reaper", "offloading"},
    "pyroute2": {
        *("offload.netlink", "offload.addresses", "offload.attach", "offload.clsact", "offload.links"),
        "offload.nexthop",
    },
    "uvloop": {"daemon"},
    "urllib": {"control.parser"},
    "time": {"daemon"},
    "gc": {"daemon"},
}
TYPES_ONLY = {"offload.forwarder": "numpy", "offloading": "numpy"}
"""Modules that name a library in annotations and do nothing with it."""

_REAL_KERNEL = "needs the real kernel: netns_call, offload/test_attach and media/test_steered drive it"
UNTESTED = {
    "__main__": "two lines that call cli.main; test_daemon runs it",
    "errors": "names only",
    "control.messages": "values without rules: test_parser makes them, test_replies reads their numbers",
    "offloading": "a part of the service: tests/service",
    "packets": "a part of the service: tests/service",
    "portpairs": "a part of the service: tests/service",
    "offload.features": _REAL_KERNEL,
    "offload.syscall": _REAL_KERNEL,
    "relay": "puts the parts together: test_daemon and test_mistakes run it",
    "session.session": "values without rules: tests/service",
    "offload.off": "says nothing to everything: test_mistakes and test_daemon run with it",
}
"""Modules without a test file of their name, and why."""


@functools.cache
def tree(module):
    return ast.parse(MODULES[module].read_text())


@functools.cache
def imports(module):
    """Every module imported anywhere in a source, those of ours without the package's name."""
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
    """The top packages of what is imported from elsewhere."""
    return {name.split(".")[0] for name in imports(module) if name not in MODULES}


def test_every_module_has_a_level():
    assert sorted(LEVEL_OF) == sorted(MODULES)
    assert OURS.keys() == LEVEL_OF.keys() - LEVELS[4]


@pytest.mark.parametrize("module", MODULES)
def test_imports_of_us(module):
    level = LEVEL_OF[module]
    if module in OURS:
        assert of_us(module) <= OURS[module]
    for name in of_us(module):
        if level != 4 and name not in OURS.get(module, ()):
            assert LEVEL_OF[name] < level, f"{module} imports {name}, which is not below it"


def test_composition_is_one_chain():
    """Each is imported by the next only, and nothing below imports any of them."""
    importers = {name: {module for module in MODULES if name in of_us(module)} for name in LEVELS[4]}
    assert importers == {
        "kernel": {"relay"},
        "relay": {"daemon"},
        "daemon": {"cli"},
        "cli": {"__main__"},
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
            assert name in STANDARD_BY_LEVEL[LEVEL_OF[module]], f"{name} has no place in {module}"


@pytest.mark.parametrize("name", FOREIGN)
def test_lists_of_places_are_not_longer_than_needed(name):
    assert {module for module in MODULES if name in outside(module)} == FOREIGN[name]


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


def handlers(module):
    return [node for node in ast.walk(tree(module)) if isinstance(node, ast.ExceptHandler)]


def is_broad(handler):
    assert handler.type is not None, f"line {handler.lineno}: bare except"
    names = {part.id for part in ast.walk(handler.type) if isinstance(part, ast.Name)}
    return bool(names & {"Exception", "BaseException"})


@pytest.mark.parametrize("module", MODULES)
def test_exceptions_are_caught_by_name(module):
    """Where a process of its own ends it may be any one, and is raised again."""
    broad = [handler for handler in handlers(module) if is_broad(handler)]
    assert len(broad) == (module in ("offload.loader", "daemon"))
    assert all(isinstance(handler.body[-1], ast.Raise) for handler in broad)


@pytest.mark.parametrize("module", MODULES)
def test_no_handler_only_passes(module):
    for handler in handlers(module):
        assert not all(isinstance(step, ast.Pass) for step in handler.body), f"{module}:{handler.lineno}"


@pytest.mark.parametrize("module", sorted(LEVELS[0] | LEVELS[1] | LEVELS[2]))
def test_core_modules_only_define(module):
    """Nothing happens on import but that constants are worked out."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Expr)
    for node in tree(module).body:
        assert isinstance(node, allowed), f"{module}:{node.lineno}"
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{module}:{node.lineno}: a call"


# Tests


def test_file_of(module):
    """The file, or in place of a file that would be too long the folder of the module's name."""
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


@pytest.mark.parametrize("folder", ["session", "media", "control", "offload"])
def test_test_files_are_named_for_a_module(folder):
    others = {"control": {"test_transcript.py"}}.get(folder, set())
    files = {path.name for path in (ROOT / "tests" / folder).glob("test_*.py")} - others
    assert files <= {f"test_{path.name}" for path in (PACKAGE / folder).glob("*.py")}


def test_tests_do_not_sleep():
    """But for the one helper that waits for something outside the process, and where time is what is shown."""
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
