# Commands for newcomers. Each target first installs what it needs and finds missing: Debian packages (as root or by
# sudo), and PyPI packages into .venv, which is made from the distribution's own python3, because only that one has bcc.

PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PEER ?=
BEFORE ?=
FUZZ_SECONDS ?= 3600
RTP_IO := $(VENV)/rtp-io
EXTRACTAUDIO := $(BIN)/extractaudio
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

VENV_PACKAGES := python3-venv
RUN_PACKAGES := $(VENV_PACKAGES) python3-bpfcc linux-libc-dev
DEMO_PACKAGES := $(RUN_PACKAGES) iproute2 ethtool
VM_PACKAGES := $(VENV_PACKAGES) iproute2 qemu-system-x86 mmdebstrap debian-archive-keyring e2fsprogs uidmap
C_PACKAGES := $(VENV_PACKAGES) gcc libc6-dev make libsndfile1-dev
TEST_PACKAGES := $(DEMO_PACKAGES) $(VM_PACKAGES) $(C_PACKAGES) mount nftables procps groff-base kamailio sip-tester tshark sox \
    libbcg729-0 xxd

.DEFAULT_GOAL := help
.PHONY: help run demo check lint test vm-test fuzz bench peer man install-man docs clean

help:
	@echo "make run [ARGS=...]  run the relay in the foreground"
	@echo "make demo            a call between two namespaces, shown as the kernel takes it over"
	@echo "make check           ruff, mypy and every test that needs no privilege: 90 seconds, no root"
	@echo "make lint            ruff and mypy only"
	@echo "make test [ARGS=...] every test, as root: on all cores at once, those that must run alone, and, without ARGS,"
	@echo "                     a gateway in a virtual machine"
	@echo "make vm-test [ARGS=...] boot stock kernels in QEMU and send them calls: ten minutes each without KVM"
	@echo "make fuzz            tests with random input, an hour of new input (FUZZ_SECONDS=3600; 0 for one round):"
	@echo "                     a million frames and a million control inputs in each round"
	@echo "make bench [BEFORE=DIRECTORY] [PEER=COMMAND] [ARGS=--quick]"
	@echo "                     measure, beside a bare redirect and kernel NAT, another checkout or another program"
	@echo "make peer            the C RTPproxy, from its source on PyPI; prints where it is, for PEER"
	@echo "make man             the manual page, in rtpproxy.8"
	@echo "make install-man     the same, for man(1) to find"
	@echo "make docs            docs/options.md, from the table of options"
	@echo "make clean           remove what was made here"
	@echo
	@echo "Each installs first what it needs. Only test, fuzz and bench install Kamailio, SIPp and tshark; they and vm-test, QEMU."

run: $(VENV)/run.ok
	exec $(SUDO) $(BIN)/rtpproxy -f -d INFO $(ARGS)

demo: $(VENV)/demo.ok
	$(SUDO) $(BIN)/python -m tests.demo $(ARGS)

check: $(VENV)/check.ok lint
	QUICK=1 $(BIN)/python -m pytest -n $$(($$(nproc) + 1)) --dist loadgroup -m "not root and not kernel and not alone" $(ARGS)

lint: $(VENV)/lint.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(VENV)/test.ok
	@$(MAKE) --no-print-directory $(EXTRACTAUDIO) || \
	    echo "without extractaudio, the test that hears recordings with it is skipped" >&2
	$(SUDO) $(BIN)/python -m tests.run $(ARGS)

vm-test: $(VENV)/vm.ok
	$(BIN)/python vm-test/run $(ARGS)

fuzz: $(VENV)/test.ok
	$(SUDO) $(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

bench: $(VENV)/test.ok
	$(SUDO) $(BIN)/python -m tests.bench.bench $(if $(BEFORE),--before '$(BEFORE)') $(if $(PEER),--peer '$(PEER)') $(ARGS)

peer: $(RTP_IO)/configure.ok
	$(call build_c,all)
	@echo $(abspath $(RTP_IO))/src/rtpproxy

man: $(VENV)/run.ok
	$(BIN)/python -m rtpproxy.cli.manual > rtpproxy.8

install-man: man
	$(SUDO) install -D -m 644 rtpproxy.8 /usr/local/share/man/man8/rtpproxy.8

docs: $(VENV)/run.ok
	$(BIN)/python -m rtpproxy.cli.manual --markdown > docs/options.md

clean:
	rm -rf $(VENV) vm-report rtpproxy.8 .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Installs those of the Debian packages $(1) that are missing, and says what to do where that is not permitted.
# Debian starts a Kamailio that it installs, at once and at every boot. One that is installed for the tests must do
# neither, even where no service manager runs now, as in a container or a chroot.
define install_packages
	@missing=$$(for name in $(1); do \
	    dpkg-query -W -f '$${Status}' $$name 2>/dev/null | grep -q 'ok installed' || printf '%s ' $$name; \
	done); \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" != 0 ] && [ -z "$(SUDO)" ]; then \
	        echo "missing Debian packages: $$missing- install them as root, or run make as root" >&2; exit 1; \
	    fi; \
	    echo "installing $$missing"; \
	    held=; masked=; \
	    case " $$missing" in *" kamailio "*) held=kamailio ;; esac; \
	    [ ! -d /run/systemd/system ] || masked=$$held; \
	    { [ -z "$$masked" ] || $(SUDO) systemctl --quiet --runtime mask $$masked.service; } && \
	    $(SUDO) apt-get update -qq && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing && \
	    { [ -z "$$masked" ] || $(SUDO) systemctl --quiet --runtime unmask $$masked.service; } && \
	    { [ -z "$$held" ] || $(SUDO) update-rc.d $$held disable; }; \
	fi
endef

# $(1) are extras of pyproject.toml, in brackets.
define install_python
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.$(1)'
endef

# $(1) are arguments of make in the source of the C RTPproxy. Variables of this make are not for that one.
define build_c
	@cd $(RTP_IO) && { MAKEFLAGS= $(MAKE) -j $$(nproc) $(1) >make.log 2>&1 || { tail -n 20 make.log >&2; false; }; }
endef

$(VENV)/run.ok: pyproject.toml
	$(call install_packages,$(RUN_PACKAGES))
	$(call install_python,[makeann])
	@touch $@

$(VENV)/demo.ok: pyproject.toml
	$(call install_packages,$(DEMO_PACKAGES))
	$(call install_python,[makeann])
	@touch $(VENV)/run.ok $@

$(VENV)/lint.ok: pyproject.toml
	$(call install_packages,$(VENV_PACKAGES))
	$(call install_python,[lint])
	@touch $@

$(VENV)/check.ok: pyproject.toml
	$(call install_packages,$(VENV_PACKAGES))
	$(call install_python,[dev])
	@touch $(VENV)/lint.ok $@

$(VENV)/vm.ok: pyproject.toml
	$(call install_packages,$(VM_PACKAGES))
	$(call install_python,[test])
	@touch $@

$(VENV)/test.ok: pyproject.toml
	$(call install_packages,$(TEST_PACKAGES))
	$(call install_python,[dev])
	@touch $(addprefix $(VENV)/,run.ok demo.ok lint.ok check.ok vm.ok) $@

# pip makes sure of the hash before it looks into the package, which holds other programs, too.
$(RTP_IO)/configure.ok: tests/rtp-io.txt
	$(call install_packages,$(C_PACKAGES))
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv --system-site-packages $(VENV)
	@echo "fetching the C RTPproxy, 80 MB"
	@rm -rf $(RTP_IO)
	@mkdir $(RTP_IO)
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary rtp-io \
	    --dest $(RTP_IO) --requirement tests/rtp-io.txt
	@cd $(RTP_IO) && tar -xzf rtp_io-*.tar.gz --strip-components=2 --wildcards 'rtp_io-*/rtpproxy' && rm rtp_io-*.tar.gz
	@cd $(RTP_IO) && { ./configure >configure.log 2>&1 || { tail -n 20 configure.log >&2; false; }; }
	@touch $@

$(EXTRACTAUDIO): $(RTP_IO)/configure.ok
	$(call build_c,-C extractaudio extractaudio)
	@cp $(RTP_IO)/extractaudio/extractaudio $@
