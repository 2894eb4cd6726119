# Commands live here; laptop, hooks and CI run the same lines.
PYTHON ?= python3.11
VENV ?= .venv
PORT ?= 5000
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: run estimate traces holds release-shard release-hold mine sealed test test-slow check ui bench bench-data clean reproduce release inbox serve selftest forget

# The main job. RECIPE=name DATA=path: a file of infra/recipes on given data. FRESH=path: a preference shard to
# take in first. FROM=stage: run this stage though nothing changed. FORCE=1: run everything though nothing changed.
run: $(READY)
	@$(PY) -m flows.retrain $(if $(RECIPE),--recipe '$(RECIPE)') $(if $(DATA),--data '$(DATA)') \
		$(if $(FRESH),--fresh '$(FRESH)') $(if $(FROM),--from-stage '$(FROM)') $(if $(FORCE),--force)

# What a run would take: tokens, FLOPs, memory and time of every stage. HARDWARE=h100: there instead of here.
estimate: $(READY)
	@$(PY) -m flows.estimate $(if $(RECIPE),--recipe '$(RECIPE)') $(if $(HARDWARE),--hardware '$(HARDWARE)') \
		$(if $(DATA),--data '$(DATA)') $(if $(JSON),--json '$(JSON)')

# The longest files first; those of a file on one worker, which share what they set up.
test: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow' \
		tests/test_readme.py tests/flows tests

test-slow: $(READY)  # drills of minutes: real schedules, kills at random moments
	$(PY) -m pytest -q -m slow tests

check: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_architecture.py

traces: $(READY)  # what tools did for the replies that align learned from
	@$(PY) -m flows.traces $(if $(RECIPE),--recipe '$(RECIPE)')

holds: $(READY)  # fresh shards that are held, and why
	@$(PY) -m flows.holds $(if $(RECIPE),--recipe '$(RECIPE)')

release-shard: $(READY)  # SHARD=<start of its hash> BY=<name> REASON=<why>: take a held shard in after all
	@$(PY) -m flows.holds $(if $(RECIPE),--recipe '$(RECIPE)') release-shard --shard '$(SHARD)' --by '$(BY)' \
		--reason '$(REASON)'

release-hold: $(READY)  # HOLD=<name> DATASET=<dataset> BY=<name> REASON=<why>: train on the data as it is
	@$(PY) -m flows.holds $(if $(RECIPE),--recipe '$(RECIPE)') release-hold --hold '$(HOLD)' --dataset '$(DATASET)' \
		--by '$(BY)' --reason '$(REASON)'

# One look at the sealed fold (folds.sealed) before a release: BY=<name> REASON=<why>; noted in data/sealed_looks.json.
sealed: $(READY)
	@$(PY) -m tasks.sealed $(if $(RECIPE),--recipe '$(RECIPE)') --by '$(BY)' --reason '$(REASON)'

# Where the reward model is exploited: replies that it scores high and a better judge low, as a file for FRESH=.
# JUDGES=gold,verifier,judge: who is asked. PROMPTS=400 REPLIES=8: how many.
mine: $(READY)
	@$(PY) -m tasks.mine $(if $(JUDGES),--judges '$(JUDGES)') $(if $(PROMPTS),--prompts $(PROMPTS)) \
		$(if $(REPLIES),--replies $(REPLIES))

# Somebody opts out: SUBJECT is a rater, the owner of prompts, or a prompt's id. LOOK=1: only say where their rows are.
forget: $(READY)
	@$(PY) -m flows.forget '$(SUBJECT)' $(if $(LOOK),--look)

ui: $(READY)  # MLflow's pages on the results, on this machine only
	@$(PY) -m flows.ui --port $(PORT)

# BENCH='main_job learning data holds algorithms noise': which of tests/bench; the last two take hours. DATA=path: pairs for `learning`.
BENCH ?= main_job learning
bench: $(READY)
	@for bench in $(BENCH); do echo "$$bench"; DATA='$(DATA)' $(PY) tests/bench/$$bench.py || exit 1; done

# Preference data from a file to its split: rows/s, memory, twice the rows, a fresh shard. ROWS=1000000: half an hour.
bench-data: $(READY)
	$(PY) tests/bench/data.py $(if $(ROWS),--rows $(ROWS))

reproduce: $(READY)  # VERSION=n of the registered policy
	@$(PY) -m flows.reproduce $(if $(VERSION),'$(VERSION)') $(if $(RECIPE),--recipe '$(RECIPE)')

release: $(READY)  # ONCE=1: look once; else keep looking where the alias champion stands
	@$(PY) -m flows.release $(if $(ONCE),--once) $(if $(RECIPE),--recipe '$(RECIPE)')

inbox: $(READY)  # take in what lies in data/inbox/ now (files, archives, folders) and run the main job; no server stays
	@$(PY) -m flows.inbox

serve: $(READY)  # CRON='0 3 * * *': retrain on what lies in data/inbox then
	@$(PY) -m flows.serve $(if $(CRON),--cron '$(CRON)') $(if $(POOL),--pool '$(POOL)')

selftest: $(READY)  # does a scheduled run really appear on a Prefect server?
	@$(PY) -m flows.selftest

# Data given by people, the champion, the DVC cache and the MLflow store stay.
clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	rm -rf data/runs data/checkpoints data/workspaces data/bench
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The lock is whole, so four installers at once have nothing to resolve; only torch wants other libraries on other
# platforms. What is imported is compiled once, on all cores.
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-compile
$(READY): infra/requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo 'installing infra/requirements.lock'
	@$(PIP) --no-deps $$(grep '^setuptools==' infra/requirements.lock)  # before the four: they see it half replaced
	@grep -v -e '^#' -e '^torch==' infra/requirements.lock | xargs -P 4 -n 63 $(PIP) --no-deps --use-pep517
	@$(PIP) -c infra/requirements.lock torch
	@$(PY) -m pip check
	@$(PIP) --no-deps --no-build-isolation -e .
	@$(PY) -m compileall -q -j 0 -x '/(tests?|testing|sympy|networkx|transformers/models|_inductor)/' $(VENV)/lib
	@$(PY) -m flows.server
	@touch $(READY)
