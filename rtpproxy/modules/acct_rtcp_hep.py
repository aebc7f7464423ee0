"""Sends the RTCP of all sessions to a collector such as Homer (module acct_rtcp_hep, protocol.md 13.2).

RTCP streams of both parties are tapped from the beginning; the process that gets their packets sends the reports.
"""

from collections.abc import Iterable

from rtpproxy.config import HepSettings, HepTransport
from rtpproxy.modules.module import Module
from rtpproxy.recording.collectors import KIND, Agent, encode_settings
from rtpproxy.service.taps import Tap, Taps
from rtpproxy.session.session import Session


class AcctRtcpHep(Module):
    """Has the RTCP of each new session reported."""

    def __init__(self, settings: HepSettings) -> None:
        is_tcp = settings.transport is HepTransport.TCP
        self._agent = Agent(settings.host, settings.port, is_tcp, settings.capture_id)

    def begin(self, taps: Taps) -> None:
        """Tap the sessions that are made from now on."""
        taps.of_new_sessions(self._taps_of)

    def _taps_of(self, session: Session) -> Iterable[Tap]:
        return (
            Tap(
                purpose=self,
                kind=KIND,
                streams=(session.callee.rtcp, session.caller.rtcp),
                on_found=_ignore,
                settings=encode_settings(self._agent, session.call_id),
            ),
        )


def _ignore(found: bytes) -> None:
    """Hear nothing: what became of the reports of all sessions is told together."""
