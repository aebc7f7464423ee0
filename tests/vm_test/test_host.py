import resource
import socket

import pytest
from generator.host import drops_of, is_own_address, silenced

from tests.running import own_namespace

pytestmark = [pytest.mark.root]


def test_own_addresses():
    with own_namespace():
        assert is_own_address("127.0.0.1")
        assert is_own_address("::1")
        assert not is_own_address("10.0.1.10")
        assert not is_own_address("fd00::10")


def test_a_silent_port_takes_nothing_and_refuses_nothing():
    """Without it, the kernel refuses."""
    with own_namespace(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect(("127.0.0.1", 4000))
        with silenced([("127.0.0.1", 4000), ("::1", 4001)]):
            asker.send(b"anybody?")
            asker.send(b"anybody?")
        asker.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            asker.send(b"anybody?")


def test_a_port_that_is_in_use():
    with own_namespace(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as user:
        user.bind(("127.0.0.1", 4000))
        with pytest.raises(OSError, match="in use"), silenced([("127.0.0.1", 4000)]):
            pass


def test_drops_of_an_interface():
    with own_namespace():
        assert drops_of("lo") == 0
        assert drops_of("eth77") == 0


@pytest.fixture
def limit():
    """The limit of open files of this process, as before afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("soft", "meanwhile"), [(4000, 4000), (200, 257)], ids=["enough", "raised"])
def test_the_limit_of_open_files(limit, soft, meanwhile):
    """It is raised where it is too low, never lowered, and afterwards it is as before."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limit[1]))
    with own_namespace():
        with silenced([("127.0.0.1", 4000)]):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (meanwhile, limit[1])
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, limit[1])
