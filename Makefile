# What a newcomer types. Everything that is missing is installed first: Debian packages (as root or by sudo), and PyPI
# packages into .venv, which is made from the distribution's own python3, because that one has bcc.

PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PEER ?=
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

RUN_PACKAGES := python3-bpfcc linux-libc-dev python3-venv
TEST_PACKAGES := $(RUN_PACKAGES) iproute2 ethtool nftables procps groff-base kamailio sip-tester

.DEFAULT_GOAL := help
.PHONY: help run test lint demo bench man install-man clean

help:
	@echo "make run [ARGS=...]  set up what is missing and run the relay in the foreground"
	@echo "make test            set up and run all tests"
	@echo "make demo            a call between two namespaces, shown as the kernel takes it over"
	@echo "make bench [PEER=...]  measure, beside a bare redirect and kernel NAT, or another program"
	@echo "make lint            ruff and mypy"
	@echo "make man             the manual page, in rtpproxy.8"
	@echo "make install-man     the same, for man(1) to find"
	@echo "make clean           remove what was installed here"

run: $(VENV)/run.ok
	exec $(SUDO) $(BIN)/rtpproxy -f -d INFO $(ARGS)

test: $(VENV)/test.ok
	$(SUDO) $(BIN)/python -m pytest $(ARGS)

demo: $(VENV)/test.ok
	$(SUDO) $(BIN)/python -m tests.demo $(ARGS)

bench: $(VENV)/test.ok
	$(SUDO) $(BIN)/python -m tests.bench.bench $(if $(PEER),--peer '$(PEER)') $(ARGS)

man: $(VENV)/run.ok
	$(BIN)/python -m rtpproxy.cli.manual > rtpproxy.8

install-man: man
	$(SUDO) install -D -m 644 rtpproxy.8 /usr/local/share/man/man8/rtpproxy.8

lint: $(VENV)/test.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) rtpproxy.8 .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Installs those of the Debian packages $(1) that are missing, and says what to do where that is not permitted.
# Debian starts a Kamailio that it installs, at once and at every boot; one that comes with the tests shall do neither.
define install_packages
	@missing=$$(for name in $(1); do \
	    dpkg-query -W -f '$${Status}' $$name 2>/dev/null | grep -q 'ok installed' || printf '%s ' $$name; \
	done); \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" != 0 ] && [ -z "$(SUDO)" ]; then \
	        echo "missing Debian packages: $$missing- install them as root, or run make as root" >&2; exit 1; \
	    fi; \
	    echo "installing $$missing"; \
	    held=; \
	    case " $$missing" in *" kamailio "*) [ ! -d /run/systemd/system ] || held=kamailio.service ;; esac; \
	    { [ -z "$$held" ] || $(SUDO) systemctl --quiet --runtime mask $$held; } && \
	    $(SUDO) apt-get update -qq && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing && \
	    { [ -z "$$held" ] || $(SUDO) systemctl --quiet --runtime unmask $$held; } && \
	    { [ -z "$$held" ] || $(SUDO) systemctl --quiet disable $$held; }; \
	fi
endef

$(VENV)/run.ok: pyproject.toml
	$(call install_packages,$(RUN_PACKAGES))
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/test.ok: pyproject.toml
	$(call install_packages,$(TEST_PACKAGES))
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(VENV)/run.ok $@
