"""What the operator is advised to do when the kernel refuses; test_loader asks without privileges, too."""

import os

import pytest

from rtpproxy.offload.privilege import with_advice


@pytest.mark.root
@pytest.mark.kernel
class TestPrivileged:
    def test_kernel_may_be_too_old(self):
        advice = f"(kernel {os.uname().release}; 5.11 or later is needed; -d DBUG shows its reasons)"
        assert with_advice("Invalid argument") == f"Invalid argument {advice}"

    def test_nothing_to_advise(self):
        assert with_advice("Cannot allocate memory") == "Cannot allocate memory"
