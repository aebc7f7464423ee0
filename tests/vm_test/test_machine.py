"""What QEMU is told, and what it tells, without a machine."""

import socket

import pytest
from lab.lines import JsonLines
from lab.machine import CPUS, NICS, Machine, accelerator
from lab.roots import Image


@pytest.fixture
def machine(tmp_path):
    image = Image(tmp_path / "disk", tmp_path / "vmlinuz", None, "module.sig_enforce=1")
    return Machine(image, tmp_path / "log", [tmp_path / "tree.tar"])


@pytest.fixture
def monitor(machine):
    ours, theirs = socket.socketpair()
    machine._monitor = JsonLines(ours)
    with theirs:
        yield theirs
    machine._monitor.close()


def test_native_xdp_has_its_queues_and_no_offload_that_forbids_it(machine):
    command = " ".join(machine._command([3, 4, 5]))
    for nic in NICS[:2]:
        (device,) = [part for part in command.split(" -") if f"id={nic.name}," in part]
        assert device.startswith("device virtio-net-pci,")
        for offload in ("guest_csum", "guest_tso4", "guest_tso6", "guest_ecn", "guest_ufo"):
            assert f"{offload}=off" in device
        (netdev,) = [part for part in command.split(" -") if f"id={nic.tap}," in part]
        # A queue for each processor to receive by, and another to send by.
        assert f"queues={2 * CPUS}" in netdev
    assert "e1000,romfile=,id=in2" in command


def test_disks_are_not_written(machine):
    drives = [part for part in machine._command([3, 4, 5]) if part.startswith("file=")]
    assert drives[0].endswith("snapshot=on")
    assert drives[1].endswith("readonly=on")


def test_a_reset_by_the_guest_is_told_from_others(machine, monitor):
    monitor.sendall(b'{"event": "RESET", "data": {"guest": false, "reason": "host-qmp-system-reset"}}\n')
    assert not machine.wait_for_reset(0.01)
    monitor.sendall(b'{"event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}\n')
    assert machine.wait_for_reset(60.0)
    assert not machine.wait_for_reset(0.01)


def test_a_guest_keeps_or_gives_an_interface(machine, monitor):
    monitor.sendall(b'{"return": {}}\n{"event": "DEVICE_DELETED", "data": {"device": "in1", "path": "/x"}}\n')
    assert not machine.unplug(NICS[0], 0.01)
    monitor.sendall(b'{"return": {}}\n')
    assert machine.unplug(NICS[1], 60.0)


def test_the_accelerator_can_be_named(monkeypatch):
    monkeypatch.setenv("VM_TEST_ACCEL", "kvm")
    assert accelerator() == "kvm"
