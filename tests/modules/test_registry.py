"""Which module a command is handed to."""

import pytest

from rtpproxy.config import ModuleKind
from rtpproxy.errors import ModuleError
from rtpproxy.modules.module import Module
from rtpproxy.modules.registry import Registry
from rtpproxy.session.session import Issuer, Role
from tests.fakes import make_session

ISSUER = Issuer(make_session(), Role.CALLER)


class Named(Module):
    """Answers with its name and what it is given."""

    def __init__(self, name):
        self.name = name

    def command(self, arguments, issuer, now):
        assert (issuer, now) == (ISSUER, 7.0)
        return b" ".join([self.name, *arguments])


def test_instances_of_a_module_count_from_one():
    first, dtmf, second = Named(b"first"), Named(b"dtmf"), Named(b"second")
    kinds = (ModuleKind.ACCT_CSV, ModuleKind.CATCH_DTMF, ModuleKind.ACCT_CSV)
    registry = Registry(list(zip(kinds, (first, dtmf, second), strict=True)))
    assert registry.modules == (first, dtmf, second)
    answers = {
        (number, instance): registry.run(number, instance, (b"x", b"y"), ISSUER, 7.0)
        for number in range(7)
        for instance in range(4)
        if registry.has(number, instance)
    }
    assert answers == {(1, 1): b"first x y", (1, 2): b"second x y", (3, 1): b"dtmf x y"}


def test_a_module_takes_no_commands_unless_it_says_so():
    with pytest.raises(ModuleError, match="takes no commands"):
        Registry([(ModuleKind.ACCT_CSV, Module())]).run(1, 1, (), ISSUER, 0.0)
