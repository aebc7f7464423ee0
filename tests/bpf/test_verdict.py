"""What `bpf/verdict.h` says of a verdict in one place agrees with what it says in another."""

import re

from rtpproxy.offload.loader import bpf_directory

HEADER = (bpf_directory() / "verdict.h").read_text()


def test_dropped_are_those_named_so():
    """The programs drop by this list; `counters.total_dropped` counts by the name."""
    listed = re.search(r"^struct verdicts \{(.*?)^\};", HEADER, re.MULTILINE | re.DOTALL)
    rule = re.search(r"verdict_is_dropped\(__u32 verdict\)\n\{(.*?)^\}", HEADER, re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert rule is not None
    named = re.findall(r"^\s*__u64 (dropped_\w+);", listed[1], re.MULTILINE)
    assert len(named) >= 3
    assert re.findall(r"VERDICT\((\w+)\)", rule[1]) == named
