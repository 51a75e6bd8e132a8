# The developer's day. `make` alone lists the targets.
# SPDX-License-Identifier: GPL-3.0-or-later

JOBS := lint unit netns firewall fleet sanity collection molecule faults

.PHONY: help site test environment $(JOBS) conformance fault-mutants client-mutants fuzz test-kernel bench-daemon bench-client fleet-figures pins clean test-clean

help: ## list the targets
	@sed -n 's/^\([a-z. -]*\):.*## /\1\t/p' Makefile | expand -t 14

site: environment ## put SSH of a Debian 13 host in Docker behind a knock, and show it
	@tools/site

test: environment ## run every check of the project; `make lint`, `make unit`, ... run one
	@.cache/venv/bin/python tools/test $(JOBS)

environment: ## the pinned Python environment, in .cache/venv
	@tools/environment

lint unit netns firewall fleet conformance sanity collection molecule: environment
	@tools/jobs/$@

lint: ## ansible-lint, yamllint, ruff, mypy, shellcheck
unit: ## pure logic, and the client on loopback: needs no root
netns: ## the daemon in network namespaces, needs root
firewall: ## the rules and their changes in network namespaces, needs root
fleet: ## Ansible over the closed ports of fifty hosts in network namespaces, needs root and Docker
conformance: ## thousands of packet traces beside C knockd, needs root; netns plays some of them
sanity: ## ansible-test sanity on a real copy of the collection
collection: ## build, install and run the collection from its tarball
molecule: ## real Debian hosts with systemd, reached over real SSH

faults: environment ## every fault in the middle of a firewall change, on real hosts: an hour, writes docs/faults.md
	@SESAME_FAULTS_ALL=1 tools/jobs/faults

fault-mutants: environment ## take each protection out of a copy of the product, and see the faults notice; minutes
	@tools/fault-mutants

client-mutants: environment ## take each feature out of a copy of the client, and see its test fail; minutes, needs root
	@tools/client-mutants

fuzz: environment ## 10,000,000 packets and 1,000,000 configurations that lead on by coverage; takes long
	@tools/fuzz

test-kernel: environment ## the daemon on the kernels of Debian 12 and 13, booted in QEMU
	@tools/test-kernel

bench-daemon: environment ## the daemon beside C knockd, fwknop and an nftables recipe: minutes, needs root
	@tools/bench-daemon

bench-client: environment ## the client beside plain ssh and the article's ProxyCommand: minutes, needs root
	@tools/bench-client

fleet-figures: environment ## measure what a fleet costs its controller, for the plan in docs/fleet.md: a minute, needs root
	@tools/fleet-figures

pins: environment ## renew requirements.txt from requirements.in
	@tools/pins

clean: ## remove everything that the other targets made here; Docker itself and Debian packages stay
	@tools/clean

test-clean: environment ## see `make site` work after `make clean`, in the same clone and in another; minutes
	@tools/test-clean
