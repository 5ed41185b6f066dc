PYTHON ?= $(firstword $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name; done))
PORT ?= 8000

VENV := .venv
RUN := $(VENV)/bin/python -m
INSTALL := $(RUN) pip install --quiet --disable-pip-version-check -r
SQLITE := DATABASE_URL=sqlite:///db.sqlite3
PYTEST := $(RUN) pytest --dist loadfile --no-loadscope-reorder
# Coverage is measured over both runs together; conftest.py says of which tests.
COVERED := --cov --cov-report= --cov-fail-under=0
COMPILE := $(RUN) uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-strip-extras --no-emit-index-url --no-emit-find-links --custom-compile-command "make requirements"

# Where the environment forbids it, each process of the tests would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run demo check check-tests test test-sqlite test-postgresql soak mutants lint bench failover requirements screenshots

help:
	@echo "make run           serve on http://127.0.0.1:8000, or PORT=…"
	@echo "make demo          serve a year of made-up usage on http://127.0.0.1:8000, or PORT=…"
	@echo "make check         lint, and the tests that need no server and no browser, in a minute or so"
	@echo "make test          lint, then every test on SQLite and on PostgreSQL, in six to thirteen minutes"
	@echo "make soak          the outbox and clients in other languages in long tests, some ten minutes"
	@echo "make mutants       put each known mistake into the code, and see that a test notices"
	@echo "make lint          ruff, mypy and import-linter"
	@echo "make bench         measure it beside its peers, in half an hour; ARGS=--quick in three minutes"
	@echo "make failover      break a cluster of etcd, Patroni and HAProxy under load, in five minutes"
	@echo "make screenshots   take the pictures in docs/ anew; needs chromium, on the PATH or in CHROMIUM"
	@echo "make requirements  compile requirements*.txt from requirements*.in, ARGS=--upgrade to newer versions"

run: $(VENV)/production .env
	@$(VENV)/bin/python manage.py migrate --verbosity 0
	@$(VENV)/bin/python manage.py first_run --address http://127.0.0.1:$(PORT)
	@$(RUN) gunicorn billing_project.wsgi --bind 127.0.0.1:$(PORT)

demo: $(VENV)/development
	@$(RUN) benchmarks.demo --port $(PORT)

.env:
	@echo "DEBUG=1" > $@

check: $(VENV)/development
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint check-tests

# Two processes for two cores: another would only load Django and collect the tests once more.
check-tests:
	@$(SQLITE) $(PYTEST) --numprocesses 2 --no-cov --hypothesis-profile few \
		-m "not (live or browser or cluster)" $(ARGS)

# All at once: while one run waits for processes, others work. Five processes leave two cores no time
# to idle; each more costs them ten seconds for loading Django and collecting the tests.
test: $(VENV)/development
	@$(RUN) coverage erase
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target lint test-sqlite test-postgresql
	@$(RUN) coverage combine --quiet
	@$(RUN) coverage report

# In a fresh clone each process of the tests would compile all of them; ruff and mypy go on beside.
usage/tests/__pycache__: | $(VENV)/development
	@$(SQLITE) $(RUN) pytest --collect-only --quiet --no-cov >/dev/null || true

test-sqlite: | usage/tests/__pycache__
	@echo "Every test on SQLite:"
	@$(SQLITE) COVERAGE_FILE=.coverage.sqlite $(PYTEST) --numprocesses 3 $(COVERED) -m "not cluster" $(ARGS)

test-postgresql: | usage/tests/__pycache__
	@echo "What touches the database on PostgreSQL:"
	@COVERAGE_FILE=.coverage.postgresql $(RUN) usage.tests.postgresql -- \
		$(PYTEST) --numprocesses 2 $(COVERED) \
		-m "(database or cluster) and not (browser or once)" $(ARGS)

soak: $(VENV)/soak mutants
	@SOAK=1 $(SQLITE) $(RUN) pytest --no-cov --timeout 900 \
		billing_client/tests/test_outbox*.py billing_client/tests/test_other_pythons.py \
		usage/tests/test_outbox*.py usage/tests/test_client_send.py usage/tests/test_http.py \
		usage/tests/test_docs_clients.py usage/tests/test_openapi_generators.py \
		usage/tests/test_metrics.py $(ARGS)
	@SOAK=1 $(RUN) pytest --no-cov --timeout 3600 usage/tests/test_cluster_soak.py $(ARGS)

mutants: $(VENV)/development
	@$(RUN) usage.tests.mutants

# import-linter goes without its cache, which has called contracts kept that were broken by then.
lint: $(VENV)/development
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(RUN) mypy
	@$(VENV)/bin/python $(VENV)/bin/lint-imports --no-logo --no-cache

failover: $(VENV)/development
	@$(RUN) benchmarks.failover $(ARGS)

bench: $(VENV)/development
	@$(RUN) benchmarks $(ARGS)

screenshots: $(VENV)/development
	@$(RUN) benchmarks.screenshots

requirements: $(VENV)/development
	$(COMPILE) $(ARGS) requirements.in -o requirements.txt
	$(COMPILE) $(ARGS) requirements-dev.in -o requirements-dev.txt
	$(COMPILE) $(ARGS) requirements-soak.in -o requirements-soak.txt

# Each file is made last, so that an interrupted installation starts again.
$(VENV)/made:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later was found: install one, or name it with PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo "$(PYTHON) could not make $(VENV): install its venv module (on Debian: apt-get install python3-venv) and run make again." >&2; exit 1; }
	@touch $@

$(VENV)/production: requirements.txt $(VENV)/made
	@echo "Installing requirements.txt into $(VENV) …"
	@$(INSTALL) requirements.txt
	@touch $@

$(VENV)/development: requirements-dev.txt $(VENV)/production
	@echo "Installing requirements-dev.txt into $(VENV) …"
	@$(INSTALL) requirements-dev.txt
	@touch $@

$(VENV)/soak: requirements-soak.txt $(VENV)/development
	@echo "Installing requirements-soak.txt into $(VENV) …"
	@$(INSTALL) requirements-soak.txt
	@touch $@
