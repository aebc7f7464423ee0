"""pyroute2's messages without pyroute2."""

import subprocess
import sys

import pytest

ASK = "from rtpproxy.network.rtnl import RTM_GETLINK, ifinfmsg; print(RTM_GETLINK, ifinfmsg.__module__)"


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_only_the_messages_are_imported():
    (told, modules) = python(f"{ASK}; import sys; print(*(name for name in sys.modules if 'pyroute2' in name))")
    assert told == "18 pyroute2.netlink.rtnl.ifinfmsg"
    assert not {"pyroute2", "pyroute2.iproute", "pyroute2.ethtool", "pyroute2.ndb"} & set(modules.split())


@pytest.mark.parametrize("order", ["{all}; {ask}", "{ask}; {all}"])
def test_others_get_all_of_it(order):
    """The same classes, whoever comes first."""
    code = order.format(all="from pyroute2 import IPRoute; from pyroute2.netlink.rtnl import ifinfmsg as all", ask=ASK)
    assert python(f"{code}; print(all.ifinfmsg is ifinfmsg, IPRoute.__name__)")[-1] == "True IPRoute"


@pytest.mark.parametrize("error", ["ImportError", "AttributeError"])
def test_version_that_needs_all_of_it(error):
    """It is imported as a whole, then, and nothing of the first try is left."""
    code = (
        "import importlib, sys\n"
        "real = importlib.import_module\n"
        "def refuse(name):\n"
        "    if name.endswith('.tcmsg'):\n"
        f"        raise {error}(name)\n"
        "    return real(name)\n"
        "importlib.import_module = refuse\n"
        f"{ASK}\n"
        "import pyroute2.netlink\n"
        "print('pyroute2.iproute' in sys.modules, pyroute2.netlink is sys.modules['pyroute2.netlink'])"
    )
    assert python(code) == ["18 pyroute2.netlink.rtnl.ifinfmsg", "True True"]
