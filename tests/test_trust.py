"""Whether a file can be trusted, by its owner and mode; notes/test_directory and offload/test_kept use real files."""

import os
import stat

import pytest

from rtpproxy.trust import mistrust


@pytest.mark.parametrize(
    ("owner", "mode", "why"),
    [
        (0, 0o644, ""),
        (7, 0o600, ""),
        (8, 0o600, "it belongs to user 8"),
        (0, 0o664, "users other than its owner may write to it (mode 0664)"),
        (7, 0o1777, "users other than its owner may write to it (mode 1777)"),
    ],
)
def test_mistrust(owner, mode, why):
    status = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, 0, 0, 0, 0, 0))
    assert mistrust(status, (0, 7)) == why
