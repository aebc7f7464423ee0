"""Tests of what a developer's kernel may lack are marked `vm`: `vm-test/run` tries them on kernels that have it."""

import ast
from pathlib import Path

from tests import optional_links

TESTS = Path(__file__).parent
KINDS = {name for name, value in vars(optional_links).items() if name.isupper() and isinstance(value, str)}
"""Names of the kinds of interfaces that not every kernel has."""


def names_in(node: ast.AST) -> set[str]:
    """Every name and attribute in a piece of source."""
    inner = list(ast.walk(node))
    return {one.id for one in inner if isinstance(one, ast.Name)} | {
        one.attr for one in inner if isinstance(one, ast.Attribute)
    }


def optional_tests(source: str) -> dict[str, tuple[set[str], bool]]:
    """The tests that ask for such an interface themselves or by a fixture: the kinds, and whether they are marked."""
    body = ast.parse(source).body
    functions = {one.name: one for one in body if isinstance(one, ast.FunctionDef)}
    is_module_marked = any("vm" in names_in(one) for one in body if "pytestmark" in names_in(one))

    def kinds(function: ast.FunctionDef) -> set[str]:
        own = KINDS & names_in(function) if "add_or_skip" in names_in(function) else set()
        names = {one.arg for one in function.args.args} - {function.name}  # a fixture may extend another of its name
        fixtures = [functions[name] for name in names & functions.keys()]
        return own.union(*map(kinds, fixtures))

    return {
        name: (kinds(function), is_module_marked or any("vm" in names_in(one) for one in function.decorator_list))
        for name, function in functions.items()
        if name.startswith("test_") and kinds(function)
    }


def test_every_one_of_them_is_marked():
    found = {
        f"{path.relative_to(TESTS)}::{name}": what
        for path in TESTS.rglob("test_*.py")
        if path != Path(__file__)
        for name, what in optional_tests(path.read_text()).items()
    }
    assert [name for name, (_, is_marked) in found.items() if not is_marked] == []
    assert set().union(*(kinds for kinds, _ in found.values())) == KINDS


def test_a_fixture_counts_and_a_missing_mark_is_seen():
    source = """
@pytest.fixture
def trunk(host):
    add_or_skip(host, VLAN, "vlan5 type vlan id 5")

@pytest.mark.vm
def test_marked(host):
    add_or_skip(host, BOND, "bond0 type bond")

def test_unmarked(trunk, host):
    pass

def test_other(host):
    pass
"""
    assert optional_tests(source) == {"test_marked": ({"BOND"}, True), "test_unmarked": ({"VLAN"}, False)}
    marked = "pytestmark = [pytest.mark.vm]\n" + source
    assert [is_marked for _, is_marked in optional_tests(marked).values()] == [True, True]
