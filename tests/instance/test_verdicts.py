"""What became of frames, in the log."""

import logging

from rtpproxy.instance.verdicts import VerdictReport


def test_verdicts_are_logged_when_they_changed(caplog):
    counters = {"forwarded": 0, "up_no_row": 0}
    report = VerdictReport(lambda: dict(counters))
    with caplog.at_level(logging.WARNING):
        report.log_changes()
    assert caplog.messages == []
    with caplog.at_level(logging.INFO):
        report.log_changes()
        report.log_changes()
        counters["forwarded"] = 7
        report.log_changes()
    assert caplog.messages == ["frames by verdict: none", "frames by verdict: forwarded 7"]


def test_verdicts_of_userspace_are_logged_with_the_kernels(caplog):
    denied = {}
    report = VerdictReport(lambda: {"forwarded": 7})
    report.add(lambda: dict(denied))
    with caplog.at_level(logging.INFO):
        report.log_changes()
        denied["dropped_denied"] = 2
        report.log_changes()
    assert caplog.messages[-1] == "frames by verdict: forwarded 7, dropped_denied 2"
