"""Commands in a machine, through its guest agent: here an agent that the test plays."""

import base64
import json
import socket
import threading

import pytest
from lab.guest import Guest, GuestError
from lab.lines import JsonLines


class FakeMachine:
    """A machine of which only the agent's socket is real."""

    def __init__(self, agent: socket.socket) -> None:
        self.agent = JsonLines(agent)
        self.status = None
        self.has_panicked = False
        self.resets = 0

    def tail(self) -> str:
        return "the console's last line"

    def wait_for_reset(self, deadline_s: float) -> bool:
        return self.resets > 0


@pytest.fixture
def guest():
    """A guest, its machine, and a function that says how the agent answers each command."""
    ours, theirs = socket.socketpair()
    asked: list[dict] = []
    answers: dict[str, list] = {}

    def agent() -> None:
        with theirs.makefile("rb") as lines:
            for line in lines:
                command = json.loads(line.lstrip(b"\xff"))
                asked.append(command)
                name = command["execute"]
                if name == "guest-sync-delimited":
                    theirs.sendall(b'\xff{"return": %d}\n' % command["arguments"]["id"])
                elif answers.get(name):
                    theirs.sendall(json.dumps(answers[name].pop(0)).encode() + b"\n")

    thread = threading.Thread(target=agent)
    thread.start()
    machine = FakeMachine(ours)
    guest = Guest(machine, 1.0)
    guest.asked, guest.answers = asked, answers
    yield guest
    ours.shutdown(socket.SHUT_RDWR)
    thread.join()
    machine.agent.close()
    theirs.close()


def ended(status: int, output: bytes) -> dict:
    return {"return": {"exited": True, "exitcode": status, "out-data": base64.b64encode(output).decode()}}


def test_a_command_is_waited_for(guest):
    guest.answers |= {
        "guest-exec": [{"return": {"pid": 7}}],
        "guest-exec-status": [{"return": {"exited": False}}, ended(0, b"6.1.0\n")],
    }
    assert guest.shell("uname -r") == "6.1.0\n"
    assert guest.asked[0]["arguments"] == {"path": "/bin/sh", "arg": ["-c", "uname -r"], "capture-output": True}
    assert [command["arguments"] for command in guest.asked[1:]] == [{"pid": 7}, {"pid": 7}]


def test_a_command_that_fails_is_quoted_with_the_console(guest):
    guest.answers |= {"guest-exec": [{"return": {"pid": 7}}] * 2, "guest-exec-status": [ended(3, b"no such file")] * 2}
    with pytest.raises(GuestError, match=r"'false' ended with status 3: no such file\n.*\nthe console's last line"):
        guest.run("false")
    assert guest.run("false", check=False).status == 3


def test_a_command_without_end_has_a_deadline(guest):
    guest.answers |= {"guest-exec": [{"return": {"pid": 7}}], "guest-exec-status": [{"return": {"exited": False}}] * 9}
    with pytest.raises(GuestError, match="'sleep' was not at its end after 0 s"):
        guest.run("sleep", deadline_s=0.01)


def test_a_refusal_is_an_error(guest):
    guest.answers["guest-exec"] = [{"error": {"class": "GenericError", "desc": "no such program"}}]
    with pytest.raises(GuestError, match="guest-exec: no such program"):
        guest.run("nonesuch")


def test_a_file_is_read_in_parts(guest):
    parts = [
        {"return": {"buf-b64": base64.b64encode(part).decode(), "eof": part == b"end"}} for part in (b"be", b"end")
    ]
    guest.answers |= {
        "guest-file-open": [{"return": 3}],
        "guest-file-read": parts,
        "guest-file-close": [{"return": {}}],
    }
    assert guest.read("/etc/motd") == b"beend"
    assert guest.asked[-1] == {"execute": "guest-file-close", "arguments": {"handle": 3}}


def test_a_reboot_is_over_when_the_next_boot_answers(guest):
    guest.machine.resets = 1
    guest.reboot(1.0)
    assert [command["execute"] for command in guest.asked] == ["guest-shutdown", "guest-sync-delimited"]


def test_a_guest_that_does_not_go_down(guest):
    with pytest.raises(GuestError, match="did not go down within 1 s"):
        guest.reboot(1.0)


@pytest.mark.parametrize(
    ("state", "text"),
    [({"status": 1}, "QEMU ended with status 1"), ({"has_panicked": True}, "its kernel panicked")],
    ids=["QEMU ends", "panic"],
)
def test_a_machine_that_will_never_answer(guest, state, text):
    vars(guest.machine).update(state)
    guest.machine.agent.send = lambda *_, **__: None  # nobody hears it
    with pytest.raises(GuestError, match=text):
        guest.wait_until_up(60.0)
