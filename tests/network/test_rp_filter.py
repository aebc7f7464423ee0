"""The setting rp_filter, read from a directory like the kernel's."""

import pytest

from rtpproxy.network.rp_filter import RpFilter


@pytest.fixture
def settings(tmp_path):
    """Writes a setting of an interface, or of all."""

    def write(name, value):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "rp_filter").write_text(f"{value}\n")

    write.directory = tmp_path
    return write


@pytest.mark.parametrize(
    ("of_all", "of_interface", "is_strict"),
    [(0, 0, False), (1, 0, True), (0, 1, True), (1, 1, True), (2, 1, False), (1, 2, False), (0, 2, False)],
)
def test_the_larger_setting_counts(settings, of_all, of_interface, is_strict):
    """0 is off, 1 strict, 2 loose (ip-sysctl.rst of the kernel)."""
    settings("all", of_all)
    settings("eth0.5", of_interface)
    assert RpFilter(settings.directory).is_strict("eth0.5") is is_strict


def test_changes_are_noticed_once(settings):
    for name in ("all", "eth0", "eth1"):
        settings(name, 0)
    rp_filter = RpFilter(settings.directory)
    assert [rp_filter.is_strict(name) for name in ("eth0", "eth1")] == [False, False]
    assert not rp_filter.check()
    settings("eth1", 1)
    assert [rp_filter.check(), rp_filter.check()] == [True, False]
    assert [rp_filter.is_strict(name) for name in ("eth0", "eth1")] == [False, True]
    settings("all", 2)
    assert [rp_filter.check(), rp_filter.is_strict("eth1")] == [True, False]


def test_an_interface_that_is_gone_is_not_strict_and_forgotten(settings):
    settings("all", 0)
    settings("eth0", 1)
    rp_filter = RpFilter(settings.directory)
    assert rp_filter.is_strict("eth0")
    (settings.directory / "eth0" / "rp_filter").unlink()
    (settings.directory / "eth0").rmdir()
    assert [rp_filter.check(), rp_filter.check()] == [True, False]
    assert not rp_filter.is_strict("eth0")
