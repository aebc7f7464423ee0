"""Sippy B2BUA's own client of a relay, told by lines of JSON what to do: `python -m tests.clients.sippy_client RELAY`.

It is a process of its own because that code lives on one dispatcher for the whole process, with threads and a signal,
and prints its exceptions instead of raising them. Each line of standard input names one method of `Driver` without its
`do_`, the method's arguments, and an id; each line of standard output is the reply with that id, in the order of the
replies. All that Sippy prints goes to standard error, so anything there is a fault.
"""

import argparse
import functools
import json
import os
import sys
import threading
from collections.abc import Callable
from urllib.parse import quote

from sippy.CLIManager import CLIConnectionManager
from sippy.Core.EventDispatcher import ED2
from sippy.MsgBody import MsgBody
from sippy.Rtp_proxy.client import CAPSTABLE, Rtp_proxy_client
from sippy.Rtp_proxy.cmd import Rtp_proxy_cmd, Rtpp_stats
from sippy.Rtp_proxy.session import Rtp_proxy_session
from sippy.Rtp_proxy.Session.webrtc import Rtp_proxy_session_webrtc2sip

OWN_ADDRESS = "127.0.0.1"
"""Where the B2BUA is; it takes the relay of a local socket to be there too."""
Reply = Callable[[object], None]


class Client(Rtp_proxy_client):
    """Asks for its heartbeat more often, and keeps what it sent, and how often again."""

    hrtb_ival = 0.1
    hrtb_retr_ival = 0.2

    def __init__(self, *args, **kwargs) -> None:
        self.sent: list[str] = []
        self.repeated = 0
        super().__init__(*args, **kwargs)

    def send_command(self, command, *args, **kwargs) -> None:
        """As Sippy does, after a note of it; heartbeats go without."""
        if str(command) != "Ib":
            self.sent.append(str(command))
        super().send_command(command, *args, **kwargs)

    def retransmit(self, cookie) -> None:
        """As Sippy does over UDP, counted."""
        self.repeated += 1
        super().retransmit(cookie)


class Driver:
    """The B2BUA around the client: calls by their call-id. Every `do_` gets a function for its one reply."""

    def __init__(self, relay: str, notify_socket: str | None, listen_on: str | int | None) -> None:
        self._config: dict[str, object] = {"_sip_address": OWN_ADDRESS}
        self._client = Client(self._config, spath=relay)
        self._client.notify_socket = notify_socket
        self._config["rtp_proxy_client"] = self._client
        self._sessions: dict[str, Rtp_proxy_session] = {}
        self._notified: list[str] = []
        self._listener = self._listen(listen_on)

    def _listen(self, listen_on: str | int | None) -> CLIConnectionManager | None:
        if listen_on is None:
            return None
        is_tcp = isinstance(listen_on, int)
        address = (OWN_ADDRESS, listen_on) if is_tcp else listen_on
        return CLIConnectionManager(lambda _, line: self._notified.append(line), address, tcp=is_tcp)

    def close(self) -> None:
        """Stop everything; calls that are left are deleted by their sessions."""
        self._sessions.clear()
        if self._listener is not None:
            self._listener.shutdown()
        self._client.shutdown()

    def do_state(self, reply: Reply) -> None:
        """Its state: on-line or not, the relay's capabilities, commands repeated, the last heartbeat."""
        client = self._client
        totals = ("sessions_created", "active_sessions", "active_streams", "preceived", "ptransmitted")
        reply(
            {
                "online": client.online,
                "capable": [date for date, name in CAPSTABLE.items() if getattr(client, name)],
                "repeated": client.repeated,
                "totals": [getattr(client, name) for name in totals],
            }
        )

    def do_sent(self, reply: Reply) -> None:
        """The commands sent since it was asked last."""
        reply(self._client.sent)
        self._client.sent = []

    def do_lose(self, reply: Reply, incoming: float) -> None:
        """Lose this share of the datagrams that arrive: Sippy's own switch."""
        self._client.worker.uopts.ploss_in_rate = incoming
        reply(None)

    def do_open(self, reply: Reply, call: str, number: int = 0, is_webrtc: bool = False) -> None:
        """A call; its number goes into the tag of its notifications."""
        kind = Rtp_proxy_session_webrtc2sip if is_webrtc else Rtp_proxy_session
        self._sessions[call] = kind(
            self._config, call_id=call, from_tag=f"{call}f", to_tag=f"{call}t", notify_tag=quote(f"r {number}")
        )
        reply(None)

    def do_set(self, reply: Reply, call: str, side: str, **values: object) -> None:
        """Attributes of a side: `raddress` next hop, `laddress` our address for it, `needs_new_port`."""
        for name, value in values.items():
            assert hasattr(getattr(self._sessions[call], side), name), name
            setattr(getattr(self._sessions[call], side), name, value)
        reply(None)

    def do_sdp(self, reply: Reply, call: str, side: str, sdp: str) -> None:
        """A session description from one side; replied as the other side gets to see it."""

        def finish(body: MsgBody | None, ex: Exception | None = None) -> None:
            reply({"error": str(ex)} if body is None else {"sdp": str(body)})

        session = self._sessions[call]
        change = session.on_caller_sdp_change if side == "caller" else session.on_callee_sdp_change
        change(MsgBody(sdp), finish)

    def do_stats(self, reply: Reply, call: str, index: int = 0) -> None:
        """The counters of a media stream, or None."""
        self._sessions[call].stats(reply, index)

    def do_delete(self, reply: Reply, call: str) -> None:
        """The call ends."""
        self._sessions.pop(call).delete()
        reply(None)

    def do_timed_out(self, reply: Reply, call: str, index: int) -> None:
        """The call ends because the relay said that a media stream did."""
        self._sessions[call].media_timeout_index = index
        self.do_delete(reply, call)

    def do_play(self, reply: Reply, call: str, prompt: str) -> None:
        """A prompt to the caller, for ever."""
        self._sessions[call].play_caller(prompt, -1, reply)

    def do_stop_play(self, reply: Reply, call: str) -> None:
        """No prompt to the caller any more."""
        self._sessions[call].stop_play_caller(reply)

    def do_copy(self, reply: Reply, call: str, port: int) -> None:
        """Copy the caller's media to another place."""
        self._sessions[call].copy_caller("127.0.0.1", port, reply)

    def do_record(self, reply: Reply, call: str, name: str | None = None) -> None:
        """Record the caller."""
        self._sessions[call].start_recording(name, reply, rflags="", only_a=True)

    def do_command(self, reply: Reply, text: str) -> None:
        """Any command."""
        self._client.send_command(text, lambda result, ex=None: reply(result))

    def do_add_totals(self, reply: Reply, names: str) -> None:
        """`G` as rtp_cluster asks its members, and the sum over this one."""
        total = Rtpp_stats(names.split())
        command = Rtp_proxy_cmd(f"G {names}")
        command.nretr = 0

        def add(result: str, ex: Exception | None = None) -> None:
            if result.startswith("E"):
                reply(result)
                return
            total.parseAndAdd(result)
            reply(str(total))

        self._client.send_command(command, add)

    def do_forced_lookup(self, reply: Reply, text: str) -> None:
        """A `U` for a call that rtp_cluster does not know: `L` with the tags exchanged, to every member."""
        command = Rtp_proxy_cmd(text)
        lookup = "L" + command.ul_opts.getstr(command.call_id, swaptags=True, skipnotify=True)
        self.do_command(reply, lookup)

    def do_notified(self, reply: Reply) -> None:
        """The lines that arrived at the notification socket so far."""
        reply(self._notified)


def main() -> None:
    """Do what standard input says until it ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("relay")
    parser.add_argument("--notify-socket")
    parser.add_argument("--listen-path")
    parser.add_argument("--listen-port", type=int)
    arguments = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    driver = Driver(arguments.relay, arguments.notify_socket, arguments.listen_path or arguments.listen_port)

    def say(number: int, value: object) -> None:
        print(json.dumps({"id": number, "reply": value}), file=replies, flush=True)

    def obey(line: str) -> None:
        request = json.loads(line)
        reply = functools.partial(say, request.pop("id"))
        getattr(driver, "do_" + request.pop("do"))(reply, **request)

    def listen() -> None:
        for line in sys.stdin:
            ED2.callFromThread(obey, line)
        ED2.callFromThread(ED2.breakLoop)

    threading.Thread(target=listen, daemon=True).start()
    ED2.loop()
    driver.close()


if __name__ == "__main__":
    main()
