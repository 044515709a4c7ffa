# Every development task; `make` alone lists them. GNU make, POSIX sh.
# Each target installs what it needs.

PYTHON ?= python3#   the interpreter .venv is made from, 3.11 or newer
PYTHON_NEWEST ?=#    of make test-versions, 3.12 or newer; if given, test-all runs that too
EXTRAS ?= dev#       dev,cuda where there are NVIDIA GPUs
# Of make identity and make bench: make bench ONLY='mlp cnn'; CELLS was its name before.
ONLY ?= $(CELLS)
ARGS ?=#             handed on: make test ARGS='-k schedule', make gpu ARGS='--only speed'

PY := .venv/bin/python
STAMP := .venv/.installed-$(EXTRAS)
NEWEST := .venv-newest/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup test test-all test-versions check gpu demo identity bench faults \
  claims site clean

help: ## list the targets
	@echo "Duet: the same training in PyTorch and in JAX."
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile
	@echo "  PYTHON=python3.12 picks the interpreter, EXTRAS=dev,cuda adds JAX for NVIDIA GPUs,"
	@echo "  ARGS='-k name' goes to pytest."

setup: $(STAMP) ## make .venv and install Duet; a no-op where nothing changed

# The stamp is written last: an interrupted install is repeated.
$(STAMP): pyproject.toml constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "make: Duet needs Python 3.11 or newer; '$(PYTHON) --version' says" \
	      "'$$("$(PYTHON)" --version 2>&1)'; try make setup PYTHON=python3.12" >&2; \
	    exit 1; }; \
	  "$(PYTHON)" -m venv --clear .venv; }
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
	@echo "Installed. Next: source .venv/bin/activate, then docs/quickstart.md; or make demo."

# Three at a time, even on two cores: much of a test is waiting. In
# the order of tests/conftest.py, not the one with most tests first: tests/launch has few,
# and they wait longest. A worker that died in a test, or hung, is not replaced, since the
# same test would run again; the others end what they have been given.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart=0

test: setup ## every law at least once; tests for GPUs are skipped
	$(PY) -m pytest $(WORKERS) -m 'not exhaustive' $(ARGS)

test-all: setup ## every test and doctest; what .ci/run runs
	$(PY) -m pytest $(WORKERS) $(ARGS)
	$(if $(PYTHON_NEWEST),$(MAKE) test-versions ARGS=)

# constraints.txt is the one end of the versions that pyproject.toml allows; this is the
# other: what pip finds newest, with a newer Python. Not part of every test-all, since it
# is another PyTorch (3 GB), and changes with every release of someone else.
test-versions: .venv-newest/.installed ## what needs a framework, on the newest releases
	$(NEWEST) -m pytest $(WORKERS) -m 'not exhaustive' tests/twins tests/data $(ARGS)
	$(NEWEST) launch/parity.py experiment=digits_mlp precision=fp64 train.steps=20 \
	  run.dir="$$(mktemp -d)/parity"

.venv-newest/.installed: pyproject.toml
	@"$(PYTHON_NEWEST)" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null || { \
	  echo "make: the newest releases need Python 3.12 or newer, not '$(PYTHON_NEWEST)';" \
	    "try make test-versions PYTHON_NEWEST=python3.13" >&2; exit 1; }
	"$(PYTHON_NEWEST)" -m venv --clear .venv-newest
	$(NEWEST) -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@

check: setup ## ruff, pyright and the import contracts: what may not be merged broken
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m pyright
	.venv/bin/lint-imports --no-logo

# With PY=python3 it runs in what is installed there, and makes no .venv.
gpu: $(if $(filter .venv/%,$(PY)),setup) ## all that a GPU can tell, in 28 minutes at most, to runs/gpu-<time>
	$(PY) benchmarks/gpu/all.py $(ARGS)

demo: setup ## both frameworks train the same recipe: is it the same, how fast; minutes
	$(PY) launch/study.py study=demo study.repeats=3 \
	  run.dir="runs/demo-$$(date -u +%Y%m%d-%H%M%S)"

identity: setup ## every parity check of conf/identity.yaml, then docs/identity.md
	$(PY) launch/identity.py $(ONLY)

bench: setup ## each twin against plain loops of its framework, then docs/performance.md
	$(PY) benchmarks/all.py $(ONLY)

claims: setup ## what is claimed of both frameworks, measured; then docs/claims.md
	$(PY) benchmarks/claims/all.py $(ONLY)

site: setup ## docs/ as a site, in site/; fails at a broken link
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

faults: setup ## every fault of tests/faults/, fuzzed input, then docs/reliability.md
	DUET_FUZZ=2000 $(PY) -m pytest -q tests/faults/test_fuzz.py
	$(PY) tests/faults/all.py

clean: ## remove caches and build products; environments and runs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . \( -name .git -o -name '.venv*' -o -name runs \) -prune -o \
	  -type d -name __pycache__ -exec rm -rf {} +
