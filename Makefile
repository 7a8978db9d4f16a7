# The commands of this project. All of them need Python >= 3.11 (with venv) and make, nothing else, and work as root
# and as an ordinary user; `make test-system` alone also needs what it lists.
.PHONY: run test test-lowest check audit secrets sbom test-system system-packages soak chaos bench lock format
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Always `python -m`: the scripts in .venv/bin have a first line that a long path makes unusable.
VENV = .venv/bin/python
PIP = $(VENV) -m pip install --quiet --disable-pip-version-check --require-hashes

run: .venv/for-run
	@exec $(VENV) -m project

test: .venv/for-test
	$(VENV) -m pytest

# The same with the lowest versions that requirements*.in claim to support, in an environment of its own. Left out is
# what no version of a library could change: containers' files, the tools of `make check`, faults of engines and disks.
NOT_OF_LIBRARIES = deploy ci dead_letters/test_erasure.py flows/test_chaos.py flows/test_disk_full.py flows/test_restore.py \
	flows/test_make_run.py flows/test_overload.py flows/test_phi.py flows/test_wire_noise.py engines \
	payments/test_simulation.py test_docs.py test_layout.py test_operations.py
# ... and what takes long: faults, commands, searches at random. `make soak` has them too (`make test-lowest IN_SHORT=`).
IN_SHORT = claims/test_intake.py claims/test_large_bodies.py dead_letters/test_dead_letters.py flows/test_faults.py \
	flows/test_faults_of_valkey.py flows/test_money.py flows/test_mutated_requests.py flows/test_saga_faults.py imports/test_commands.py \
	security/test_first_keys.py security/test_keyless.py security/test_keys.py security/test_matrix.py \
	telemetry/test_logs.py test_doctor.py test_draining.py test_protocol_limits.py test_worker.py
test-lowest: .venv/for-test
	$(VENV) -m pip install --quiet --disable-pip-version-check uv
	$(VENV) -m uv venv --quiet --clear .venv-lowest
	$(VENV) -m uv pip install --system-certs --quiet --python .venv-lowest --resolution lowest-direct --requirement requirements-test.in
	.venv-lowest/bin/python -m pytest $(foreach left,$(NOT_OF_LIBRARIES) $(IN_SHORT),--ignore=project/tests/$(left))

check: .venv/for-test
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m mypy
	$(VENV) -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	$(VENV) -m pytest project/tests/test_migrations.py
	$(VENV) .ci/secret_scan.py .
	$(VENV) .ci/audit.py requirements.txt requirements-test.txt requirements-bench.txt

# Two parts of `make check` alone: known vulnerabilities of what is pinned, which needs a network (and says "skipped"
# without one), and secrets in the checkout.
audit: .venv/for-test
	$(VENV) .ci/audit.py requirements.txt requirements-test.txt requirements-bench.txt

secrets: .venv/for-test
	$(VENV) .ci/secret_scan.py .

# What the service is made of at run time, for who has to know: names, versions, hashes, licences.
sbom: .venv/for-test
	$(VENV) .ci/sbom.py requirements.txt sbom.cdx.json

# The long form of what `make test` runs bounded: 10,000 worlds of the saga, each from one integer; then requests made of
# noise and of claims with something changed, and requests made from the OpenAPI document, for ten minutes.
soak: .venv/for-test
	SIMULATION_SEEDS=10000 $(VENV) -m pytest project/tests/payments/test_simulation.py
	HOSTILE_EXAMPLES=40000 CONTRACT_EXAMPLES=1000 $(VENV) -m pytest -n 0 \
		project/tests/flows/test_mutated_requests.py project/tests/test_contract.py
	$(MAKE) test-lowest IN_SHORT=

# Ratios of two things done in turn in one run; writes docs/performance.md. QUICK=1: all of it in short, in two minutes,
# printed only. BENCH is for further words: make bench BENCH="--only intake". pgbench comes with the Postgres wheel.
bench: .venv/for-bench
	@command -v wrk >/dev/null || { echo "make bench needs wrk; install: wrk" >&2; exit 1; }
	$(VENV) -m bench $(if $(QUICK),--quick) $(BENCH)

# Thousands of claims and random violence against every process for CHAOS_SECONDS (180), then the reckoning. It tells
# its CHAOS_SEED. `make test` holds a short form.
chaos: .venv/for-test
	$(VENV) -m project.tests.chaos

# What `make test-system` needs from the system's packages (Debian's names), and the programs that it looks for.
SYSTEM_PACKAGES = chromium nginx pgbouncer prometheus
SYSTEM_PROGRAMS = chromium nginx pgbouncer prometheus promtool

test-system: export PATH := $(PATH):/usr/sbin:/sbin
test-system: .venv/for-test
	@for program in $(SYSTEM_PROGRAMS); do command -v $$program >/dev/null || \
		{ echo "make test-system needs $$program; install: $(SYSTEM_PACKAGES)" >&2; exit 1; }; done
	$(VENV) -m pytest -m system

system-packages:
	@echo $(SYSTEM_PACKAGES)

format: .venv/for-test
	$(VENV) -m ruff check --fix .
	$(VENV) -m ruff format .

# Pins what requirements*.in ask for, with hashes, for every platform. uv comes into an environment of its own.
lock: .venv/for-run
	$(VENV) -m pip install --quiet --disable-pip-version-check uv
	for name in requirements requirements-test requirements-bench; do \
		$(VENV) -m uv pip compile --system-certs --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
			--no-emit-find-links --custom-compile-command "make lock" $$name.in --output-file $$name.txt; done

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "claim_process needs Python >= 3.11 with venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/for-run: requirements.txt | .venv/bin/python
	$(PIP) --requirement requirements.txt
	@touch $@

.venv/for-test: requirements-test.txt | .venv/bin/python
	$(PIP) --requirement requirements-test.txt
	@touch $@

.venv/for-bench: requirements-bench.txt | .venv/for-test
	$(PIP) --requirement requirements-bench.txt
	@touch $@
