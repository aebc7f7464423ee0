"""When programs are loaded: at once, or by somebody else while the event loop goes on."""

import pytest

from rtpproxy.errors import OffloadError
from rtpproxy.offload.loading import BeingLoadedError, Loading
from tests.offload.relay_network import Later

NO_MEMORY = OffloadError("cannot load the program for TC: Cannot allocate memory")


class Slow:
    """Programs that the kernel takes long to verify, in place of `loader.OnDemand`."""

    def __init__(self):
        self.loaded = []
        self.passing = {}
        """By function: why it cannot be loaded now."""
        self.refused = {}
        """Why it never can."""

    def is_settled(self, function):
        return function in self.loaded or function in self.refused

    def fd(self, function):
        for errors in (self.refused, self.passing):
            if function in errors:
                raise errors[function]
        if function not in self.loaded:
            self.loaded.append(function)
        return 7


class Scene:
    """Loads in the background. What is waited for is asked for again each time that one was tried."""

    def __init__(self):
        self.programs, self.runner = Slow(), Later()
        self.loading = Loading(self.programs)
        self.answers = []
        """What those who wait got, and the error if it was one."""

    def load_later(self):
        self.loading.load_by(self.runner, self.ask)

    def ask(self, function):
        try:
            self.answers.append(self.loading.fd(function))
        except OffloadError as error:
            self.answers.append(str(error))


@pytest.fixture
def scene():
    return Scene()


def test_at_once_while_the_relay_starts(scene):
    assert scene.loading.fd("on_xdp") == 7
    assert (scene.programs.loaded, scene.runner.waiting) == (["on_xdp"], [])


def test_later_once_calls_are_up(scene):
    scene.load_later()
    with pytest.raises(BeingLoadedError, match="the program is being loaded"):
        scene.loading.fd("on_tc")
    assert (scene.programs.loaded, scene.answers) == ([], [])
    scene.runner.do_one()
    assert (scene.programs.loaded, scene.answers) == (["on_tc"], [7])
    assert (scene.loading.fd("on_tc"), scene.runner.waiting) == (7, [])


def test_what_was_loaded_at_the_start_is_there(scene):
    scene.loading.fd("on_xdp")
    scene.load_later()
    assert (scene.loading.fd("on_xdp"), scene.runner.waiting) == (7, [])


def test_what_many_wait_for_is_loaded_once(scene):
    """And nobody else touches it meanwhile, even where the thread is done."""
    scene.load_later()
    for function in ("on_tc", "on_tc", "on_xdp", "on_tc"):
        with pytest.raises(BeingLoadedError):
            scene.loading.fd(function)
    assert len(scene.runner.waiting) == 2
    scene.programs.loaded.append("on_tc")
    with pytest.raises(BeingLoadedError):
        scene.loading.fd("on_tc")


def test_refusal_is_told_and_not_tried_again(scene):
    scene.load_later()
    scene.programs.refused["on_tc"] = OffloadError("Invalid argument")
    for _ in range(2):
        with pytest.raises(OffloadError, match="Invalid argument"):
            scene.loading.fd("on_tc")
    assert scene.runner.waiting == []


def test_failure_that_may_pass_is_told_and_tried_again_by_those_who_come_later(scene):
    """Those who are told ask at once, and would else ask for ever."""
    scene.load_later()
    scene.programs.passing["on_tc"] = NO_MEMORY
    with pytest.raises(BeingLoadedError):
        scene.loading.fd("on_tc")
    scene.runner.do_one()
    assert (scene.answers, scene.runner.waiting) == ([str(NO_MEMORY)], [])
    scene.programs.passing.clear()
    with pytest.raises(BeingLoadedError):
        scene.loading.fd("on_tc")
    scene.runner.do_one()
    assert scene.answers == [str(NO_MEMORY), 7]


def test_at_once_after_the_end(scene):
    """What was under way is told nobody."""
    scene.load_later()
    with pytest.raises(BeingLoadedError):
        scene.loading.fd("on_tc")
    scene.loading.load_at_once()
    assert (scene.loading.fd("on_tc"), scene.loading.fd("on_xdp"), scene.answers) == (7, 7, [])


def test_one_who_fails_at_being_told_does_not_keep_the_failure(scene):
    def fail(_):
        raise ZeroDivisionError

    scene.loading.load_by(scene.runner, fail)
    scene.programs.passing["on_tc"] = NO_MEMORY
    with pytest.raises(BeingLoadedError):
        scene.loading.fd("on_tc")
    with pytest.raises(ZeroDivisionError):
        scene.runner.do_one()
    with pytest.raises(BeingLoadedError):
        scene.loading.fd("on_tc")
