"""In-memory doubles of what the forwarder is given."""

from rtpproxy.offload.entry import Tier
from rtpproxy.offload.hop_numbers import HopNumbers
from rtpproxy.offload.nexthop import Route

ROUTE = Route(7, "10.0.2.1", "via 10.0.2.2 dev eth1", 64, Tier.XDP, True)
OTHER_ROUTE = Route(8, "10.0.3.1", "via 10.0.3.2 dev eth2", 64, Tier.XDP, True)


class FakeRows:
    """The rows of a port table: port to (entry, address of ours, next hop); and by port, its ingress."""

    def __init__(self):
        self.rows = {}
        self.ingress = {}
        self.held = []
        self.seeded = []
        """Key, True if an entry was there, and SSRC."""

    def install(self, entry, from_host, next_hop, ttl, ingress):
        self.rows[entry.port] = entry, from_host, next_hop
        self.ingress[entry.port] = ingress

    def withdraw(self, port):
        del self.rows[port]

    def hold(self, key):
        self.held.append(key)

    def seed(self, key, state):
        self.seeded.append((key, key in self.rows, state.ssrc))


class FakeNextHops:
    """Routes that a test writes, with the number of users of each; `changed` is what `reroute` has to find."""

    def __init__(self):
        self.routes = {}
        self.users = {}
        self.changed = []
        self.numbers = HopNumbers(10)
        self.indexes = {}
        """By host: the interface that its route leads to."""

    def acquire(self, to_host, from_host):
        target = to_host, from_host
        self.users[target] = self.users.get(target, 0) + 1
        return self.current(to_host, from_host)

    def release(self, to_host, from_host):
        target = to_host, from_host
        self.users[target] -= 1
        if not self.users[target]:
            del self.users[target]

    def current(self, to_host, from_host):
        assert (to_host, from_host) in self.users
        return self.routes.get(to_host, ROUTE)

    def interface(self, to_host, from_host):
        assert (to_host, from_host) in self.users
        return self.indexes.get(to_host, 1)

    def reroute(self, most):
        found, self.changed = self.changed[:most], self.changed[most:]
        return found

    @property
    def is_rerouted(self):
        return not self.changed
