"""Boots a virtual machine with a stock kernel and our package, for the tests in `vm-test/tests`."""
