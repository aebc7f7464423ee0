"""Which refusals of the kernel may pass."""

import errno
import os

import pytest

from rtpproxy.errors import OffloadError
from rtpproxy.offload.passing import is_passing


def refusal(number):
    error = OffloadError("cannot load the program for XDP: no matter why")
    error.__cause__ = OSError(number, os.strerror(number))
    return error


@pytest.mark.parametrize("name", ["EAGAIN", "EBUSY", "EINTR", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ETIMEDOUT"])
def test_reasons_that_may_pass(name):
    assert is_passing(refusal(getattr(errno, name)))


@pytest.mark.parametrize("name", ["EOPNOTSUPP", "EINVAL", "EACCES", "EPERM", "EEXIST", "ERANGE", "E2BIG", "ENODEV"])
def test_reasons_that_stay(name):
    """Not supported by the driver, refused by the verifier, no privilege, an MTU that is too large."""
    assert not is_passing(refusal(getattr(errno, name)))


def test_reason_without_a_number_stays():
    assert not is_passing(OffloadError("bcc is not installed"))
