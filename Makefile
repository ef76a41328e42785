# StreamFlow feature store. `make` or `make help` lists every command.
# Written for GNU make 3.81 and a POSIX sh, so that macOS needs nothing more.

.DEFAULT_GOAL := help
SHELL := /bin/sh

# Where the environment goes; .venv/bin is all that the recipes use.
VENV := .venv
PY := $(VENV)/bin/python
DBT := $(CURDIR)/$(VENV)/bin/dbt
RUN = $(if $(call given,TARGET),STREAMFLOW_TARGET=$(call typed,TARGET) )$(PY) -m orchestration $(if $(call given,DEBUG),--debug)

# given NAME: what the command line says it is, nothing otherwise. An environment has a PORT, END or
# USERS of its own, which is not meant for us.
given = $(if $(filter command,$(origin $(1))),$(value $(1)))
# typed NAME: the same as one word of the shell, whatever it holds.
typed = $(if $(call given,$(1)),'$(subst ','\'',$(value $(1)))')
# option NAME,--flag: both, when it was given.
option = $(if $(call given,$(1)),$(2) $(call typed,$(1)))

# The one package that no lock can install is the installer: pip before 24 rejects our lock
# (docs/decisions/0001-pip-first.md), so this one comes first, by its hash too.
PIP_PIN := pip==26.3 --hash=sha256:f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check --no-input
INSTALL_LOCKED := $(PIP_INSTALL) --require-hashes --no-deps -r
UV_COMPILE := $(VENV)/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.10 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-strip-extras --no-header \
	--annotation-style line

##@ Start

.PHONY: demo
demo: $(VENV)/.runtime ## everything: install, database, sample drops, dbt, Feast, training set, API
	@$(RUN) demo

.PHONY: up
up: $(VENV)/.runtime ## start the database alone
	@$(PY) -m data up

.PHONY: down
down: ## stop everything that was started here
	@if [ -x $(PY) ]; then $(RUN) down; else echo "Nothing runs: there is no $(VENV)."; fi

##@ Steps

.PHONY: generate
generate: $(VENV)/.runtime ## sample drops into data/drops   [USERS=2000 MONTHS=6 SEED=1 GRAIN=events TO=data/drops]
	@$(PY) -m data generate $(call option,USERS,--users) $(call option,MONTHS,--months) \
		$(call option,SEED,--seed) $(call option,GRAIN,--grain) $(call option,TO,--to)

.PHONY: load
load: $(VENV)/.runtime ## check and load a drop           DROP=<folder named YYYY-MM-DD> [QUARANTINE=1]
	@$(call need,DROP,make load DROP=data/drops/2024-01-31)
	@$(RUN) ingest $(if $(call given,QUARANTINE),--quarantine) $(call typed,DROP)

.PHONY: build
build: $(VENV)/.runtime ## dbt build: features, tests, publication   [RECOMPUTE=1 CADENCE=day ALLOW_LEAVING=<n>]
	@$(RUN) build $(BUILD_OPTIONS)

.PHONY: plan
plan: $(VENV)/.runtime ## what `make build` would do now: features, rows and why; writes nothing
	@$(RUN) plan $(BUILD_OPTIONS)

.PHONY: docs
docs: $(VENV)/.runtime ## dbt's documentation and lineage as one page that opens offline
	@$(RUN) docs

.PHONY: apply
apply: $(VENV)/.runtime ## feast apply
	@$(RUN) apply

.PHONY: materialize
materialize: $(VENV)/.runtime ## feast materialize-incremental     [END=2024-01-31T00:00:00] [FULL=1]
	@$(RUN) materialize $(call option,END,--end-date) $(if $(call given,FULL),--full)

.PHONY: publish
publish: materialize ## the name of materialize until 0.2; goes with the next release
	@echo "make publish is called make materialize now; the old name goes with the next release." >&2

.PHONY: audit
audit: $(VENV)/.runtime ## does every online value equal the offline one?
	@$(RUN) audit

.PHONY: skew
skew: $(VENV)/.runtime ## was what was served what was published? replays the API's logged answers   [SINCE=2024-01-31]
	@$(RUN) skew $(call option,SINCE,--since)

.PHONY: training-set
training-set: $(VENV)/.runtime ## features and labels of snapshots    AS_OF=2024-01-31[,...|..2024-06-30] or LABELS=<file> [KNOWN_AT= SERVICE=]
	@[ -n $(or $(call typed,LABELS),'') ] || $(call need,AS_OF,make training-set AS_OF=2024-01-31)
	@$(RUN) training-set $(call option,AS_OF,--as-of) $(call option,LABELS,--labels) $(call option,KNOWN_AT,--known-at) \
		$(call option,SERVICE,--service)

.PHONY: leak-check
leak-check: $(VENV)/.runtime ## do your models look into the future? (draws histories, moves rows, rebuilds)
	@$(RUN) leak-check

.PHONY: pipeline
pipeline: $(VENV)/.runtime ## all steps in order               [DROP=<folder>] [AS_OF=2024-01-31]
	@$(RUN) pipeline $(call option,DROP,--drop) $(call option,AS_OF,--as-of)

.PHONY: serve
serve: $(VENV)/.runtime ## the API in the foreground
	@$(VENV)/bin/python -m serving

.PHONY: vector
vector: $(VENV)/.runtime ## one user's online vector, as Feast reads it   USER=<user id>
	@$(call need,USER,make vector USER=<user id>)
	@$(RUN) vector -- $(call typed,USER)

##@ Spark (the same commands take TARGET=spark, after `make spark`)

.PHONY: spark
spark: $(VENV)/.spark ## install Spark: pyspark, dbt-spark and a Java, by pip
	@echo "Spark is installed. Now: make pipeline TARGET=spark DROP=<folder>"

.PHONY: equal
equal: $(VENV)/.spark $(VENV)/.dev ## build the sample on Postgres and on Spark, compare every cell   [ARGS="--users 300"]
	@$(PY) -m tests.spark.equal $(call given,ARGS)

.PHONY: equal-long
equal-long: $(VENV)/.spark $(VENV)/.dev ## the same, and 200 random histories
	@$(PY) -m tests.spark.equal --histories 200 $(call given,ARGS)

##@ Orchestrator and report

.PHONY: dagster
dagster: $(VENV)/.dev ## Dagster's UI on this machine   [PORT=3000]
	@$(RUN) dagster $(call option,PORT,--port)

.PHONY: backfill
backfill: $(VENV)/.dev ## months of data/drops through to online, in order   MONTHS=2024-01..2024-06
	@$(call need,MONTHS,make backfill MONTHS=2024-01..2024-06)
	@$(RUN) backfill $(call typed,MONTHS)

.PHONY: report
report: $(VENV)/.runtime ## freshness, tests and drift of a month as one HTML page   AS_OF=2024-02-29
	@$(call need,AS_OF,make report AS_OF=2024-02-29)
	@$(RUN) report --as-of $(call typed,AS_OF)

.PHONY: catalogue
catalogue: $(VENV)/.runtime ## what the API's catalogue shows of each feature: lineage, statistics, drift, tests
	@$(RUN) catalogue

.PHONY: lineage
lineage: $(VENV)/.runtime ## column lineage from raw files to answers, as a file   [FEATURE=watch_hours_30d]
	@$(RUN) lineage $(call option,FEATURE,--feature)

##@ Years

.PHONY: erase
erase: $(VENV)/.runtime ## a user out of everything   USER=<id> | FILE=<ids> | AGAIN=1 [ENTITY= ID= ALSO=<folder> TABLE= DROPS=1 READMIT=1]
	@$(RUN) erase $(call option,ENTITY,--entity) $(if $(call given,USER),--id=$(call typed,USER)) \
		$(if $(call given,ID),--id=$(call typed,ID)) $(call option,FILE,--file) \
		$(call option,ALSO,--also) $(call option,TABLE,--table) $(if $(call given,DROPS),--drops) \
		$(if $(call given,READMIT),--readmit) $(if $(call given,AGAIN),--again)

.PHONY: prune
prune: $(VENV)/.runtime ## old replaced versions and rows; says what KNOWN_AT still answers   KEEP=2years
	@$(call need,KEEP,make prune KEEP=2years)
	@$(RUN) prune --keep $(call typed,KEEP)

.PHONY: backup
backup: $(VENV)/.runtime ## the whole database in one file   [TO=data/processed/backups/...]
	@$(RUN) backup $(call option,TO,--to)

.PHONY: restore
restore: $(VENV)/.runtime ## an empty database from a backup   FROM=<file>
	@$(call need,FROM,make restore FROM=<file of make backup>)
	@$(RUN) restore --from $(call typed,FROM)

##@ Develop

# As many processes as there are cores, each with a database server of its own. ARGS="-n 0": one.
PYTEST = $(VENV)/bin/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: test
test: $(VENV)/.dev ## all tests, on database servers of their own   [ARGS="-k words"]
	@$(PYTEST) $(call given,ARGS)

.PHONY: test-quick
test-quick: $(VENV)/.dev ## the tests without a whole build or program, for the inner loop
	@$(PYTEST) -q -m "not slow" $(call given,ARGS)

.PHONY: test-orchestration
test-orchestration: $(VENV)/.dev ## the orchestrator's tests alone
	@$(PYTEST) tests/orchestration $(call given,ARGS)

.PHONY: test-compose
test-compose: $(VENV)/.runtime ## docker-compose.yml and its images for real, on a Docker engine of its own; needs root
	@$(PY) -m tests.containers.run

.PHONY: chaos
chaos: $(VENV)/.dev ## kill, fill and disturb everything, then compare; JSON at the end   [SECONDS=600 SEED=1 ARGS="--plant ledger-first"]
	@$(PY) -m tests.chaos.run $(call option,SECONDS,--seconds) $(call option,SEED,--seed) $(call given,ARGS)

.PHONY: test-bounds
test-bounds: $(VENV)/.dev ## the core's tests with the lowest and with the newest versions that pyproject.toml allows
	@$(PIP_INSTALL) --quiet uv
	@$(PY) -m tests.tools.bounds $(call given,ARGS)

.PHONY: check
check: $(VENV)/.dev ## linters and types: ruff, sqlfluff, mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m tests.tools.lint_sql

.PHONY: fix
fix: $(VENV)/.dev ## let the linters repair what they can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(PY) -m tests.tools.lint_sql --fix

.PHONY: bench-build bench-publish bench-training bench-serving
bench-build: $(VENV)/.dev ## how long builds take: full, nothing new, late rows, next month
bench-publish: $(VENV)/.dev ## publishing online against stock Feast
bench-training: $(VENV)/.dev ## training sets against stock Feast
bench-serving: $(VENV)/.dev ## requests a second against feast serve
bench-build bench-publish bench-training bench-serving:
	@$(PY) tests/bench/$(subst -,_,$@).py $(call given,ARGS)

.PHONY: bench-spark
bench-spark: $(VENV)/.spark $(VENV)/.dev ## the whole path on Spark at 10,000, 100,000 and 1,000,000 users
	@$(PY) tests/bench/bench_spark.py $(call given,ARGS)

.PHONY: lock
lock: $(VENV)/.runtime ## resolve the versions again (UPGRADE=1: the newest ones)
	@$(PIP_INSTALL) --quiet uv
	$(UV_COMPILE) --extra dev --extra orchestration --extra redis $(if $(call given,UPGRADE),--upgrade) -o requirements-dev.lock
	$(UV_COMPILE) $(if $(call given,UPGRADE),--upgrade) -c requirements-dev.lock -o requirements.lock
	$(UV_COMPILE) $(if $(call given,UPGRADE),--upgrade) --extra orchestration -c requirements-dev.lock \
		-o requirements-orchestrator.lock
	$(UV_COMPILE) $(if $(call given,UPGRADE),--upgrade) --extra spark -c requirements-dev.lock \
		-o requirements-spark.lock

.PHONY: clean
clean: down ## stop, then remove the environment, the database and everything generated
	rm -rf $(VENV) .state dbt_project/target dbt_project/logs logs data/drops/* data/processed/* \
		.pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z][a-z-]*:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

BUILD_OPTIONS = $(if $(call given,RECOMPUTE),--recompute) $(call option,CADENCE,--cadence) \
	$(call option,ALLOW_LEAVING,--allow-leaving)

# need NAME, an example: stop when the variable was not given.
define need
[ -n $(or $(call typed,$(1)),'') ] || { echo "Say which: $(2)" >&2; exit 2; }
endef

# --- the environment ---------------------------------------------------------------------------

# The first of these that fits; PYTHON=... says which one to take.
CANDIDATES := $(or $(call typed,PYTHON),python3 python3.13 python3.12 python3.11 python3.10 python)

$(VENV)/.pip:
	@supported='import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; \
	if ! $(PY) -c "$$supported" >/dev/null 2>&1; then \
		chosen=; for python in $(CANDIDATES); do \
			if "$$python" -c "$$supported" >/dev/null 2>&1; then chosen=$$python; break; fi; \
		done; \
		if [ -z "$$chosen" ]; then \
			echo "StreamFlow needs Python 3.10 to 3.13 with its venv module; none of these is:" \
				$(CANDIDATES) >&2; \
			echo "Install one (Debian: apt-get install python3-venv), or say where it is:" \
				"make demo PYTHON=/path/to/python3.12" >&2; exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$$chosen" --version)"; \
		rm -rf $(VENV) && "$$chosen" -m venv $(VENV); \
	fi
	@echo '$(PIP_PIN)' > $(VENV)/pip.lock
	@$(PIP_INSTALL) --quiet --require-hashes -r $(VENV)/pip.lock
	@touch $@

# $(call install,<lock>): pip's long output becomes a count; on failure its end is shown.
define install
total=$$(grep -c '^[a-z].*==' $(firstword $(1))); \
echo "Installing from $(firstword $(1)) (up to $$total packages)"; \
{ $(INSTALL_LOCKED) $(1) 2>&1; echo "exit=$$?"; } | tee $(VENV)/install.log | awk ' \
	/^Collecting/ { if (++n % 25 == 0) { printf "  %d packages ...\n", n; fflush() } } \
	/^Installing collected/ { print "  unpacking ..."; fflush() } \
	/^exit=/ { code = substr($$0, 6) } END { exit code }' \
	|| { tail -15 $(VENV)/install.log >&2; exit 1; }
endef

$(VENV)/.runtime: requirements.lock pyproject.toml $(VENV)/.pip
	@$(call install,requirements.lock)
	@$(PIP_INSTALL) --quiet --no-deps --no-build-isolation -e . >> $(VENV)/install.log 2>&1 \
		|| { tail -15 $(VENV)/install.log >&2; exit 1; }
	@touch $@

# pyspark is source alone: it is built by the setuptools that are here, and asks no network for others.
$(VENV)/.spark: requirements-spark.lock $(VENV)/.runtime
	@$(call install,requirements-spark.lock --no-build-isolation)
	@$(PY) -m data.lake.java >> $(VENV)/install.log
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@$(call install,requirements-dev.lock)
	@touch $@
