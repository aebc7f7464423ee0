"""The service used by another front end than the RTPproxy protocol: JSON objects in, JSON objects out."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.service import requests
from rtpproxy.service.answers import PortLine
from rtpproxy.service.sessions import Service
from tests.running import rtp
from tests.scenario import CALLEE, FACES_CALLEE, TO_CALLER, Scenario

CALL = {"call_id": "call", "from_tag": "f", "to_tag": "t"}


class JsonFront:
    """Knows the words of `service/` only."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def ask(self, text: str, now: float) -> dict[str, Any]:
        asked = json.loads(text)
        tags = [asked[name].encode() for name in ("call_id", "from_tag", "to_tag")]
        match asked["do"]:
            case "update":
                line, _ = self._service.update(requests.Update(*tags, _media(asked)), "", now)
                return _shown(line)
            case "lookup":
                found = self._service.lookup(requests.Lookup(*tags, _media(asked)), now)
                return _shown(found[0]) if found else {}
            case "query":
                issuer = self._service.find(requests.Query(*tags))
                if "timeout_s" in asked:
                    request = requests.SetTimeout(asked["timeout_s"], is_reverse=False)
                    self._service.set_timeout(issuer, request, now)
                return asdict(self._service.query(issuer, now))
            case "delete":
                self._service.delete(requests.Delete(*tags, is_weak=False), now)
        return {}


def _media(asked: dict[str, Any]) -> requests.MediaDescription:
    return requests.MediaDescription(Endpoint(asked["host"], asked["port"]))


def _shown(line: PortLine) -> dict[str, Any]:
    return {"port": line.port, "host": line.local.host}


@pytest.fixture
def ask(play):
    front = JsonFront(play.service)
    return lambda do, **more: front.ask(json.dumps({"do": do, **CALL, **more}), play.now)


def test_a_call_in_other_words(play: Scenario, ask):
    assert ask("lookup", host="10.0.2.2", port=5000) == {}
    assert ask("update", host="10.0.1.2", port=4000) == {"port": 20000, "host": ""}
    assert ask("lookup", host="10.0.2.2", port=5000) == {"port": 20002, "host": ""}
    play.packet(CALLEE, FACES_CALLEE, rtp(1), TO_CALLER)
    counters = ask("query", timeout_s=20)
    assert (counters["seconds_left"], counters["received_from_peer"], counters["relayed"]) == (20, 1, 1)
    ask("delete")
    play.assert_nothing_is_left()
