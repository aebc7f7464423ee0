"""Without a kernel tier: nothing is forwarded or counted, and routes are asked for again."""

import logging

from rtpproxy.offload.off import NoKernelTier


def test_without_a_kernel_tier_routes_are_asked_again_every_second(caplog):
    asked = []
    tier = NoKernelTier("--offload off", lambda: asked.append(1))
    with caplog.at_level(logging.INFO):
        tier.start()
    tier.tick()
    tier.tick()
    tier.close()
    assert (caplog.messages, asked) == (["all interfaces: userspace (--offload off)"], [1, 1])


def test_privileges_for_loading_are_given_up_at_once():
    given_up = []
    NoKernelTier("--offload off", lambda: None).load_rest(lambda: given_up.append(True))
    assert given_up


def test_nothing_is_forwarded_or_counted():
    tier = NoKernelTier("--offload off", lambda: None)
    assert tier.forwarder.rest == "--offload off"
    assert list(tier.forwarder.apply(1, {}, 0.0)) == []
    assert (tier.forwarder.by_program(), tier.forwarder.by_reason()) == ({}, {})
    assert (tier.counters.total_forwarded(), tier.counters.total_dropped(), tier.counters.verdicts()) == (0, 0, {})
