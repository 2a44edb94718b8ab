.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-slow bench lint clean

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.ready  ## Create the environment (once; a few minutes, several GB)

# The stamp is written last: an interrupted set-up is done again, a finished one never is.
$(VENV)/.ready: pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || \
	    { echo "scalecli needs Python 3.10 to 3.13; '$(PYTHON)' was not found: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(None if (3, 10) <= v[:2] <= (3, 13) else \
	    f"scalecli needs Python 3.10 to 3.13; $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.12 ...")'
	@echo "Setting up $(VENV): takes a few minutes and several GB, once."
	@"$(PYTHON)" -m venv "$(VENV)"
	@case "$$(uname -s)-$$(uname -m)" in \
	    Linux-x86_64) extras=xla,offline,tune,ray,dev ;; \
	    *) extras=offline,tune,ray,dev ;; \
	esac; \
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --editable ".[$$extras]"
	@touch "$@"

# Two photographs that come with scikit-learn.
PHOTOS = $(BIN)/python -c 'import sklearn; print(sklearn.__path__[0] + "/datasets/images")'

demo: $(VENV)/.ready  ## Run every command on what is embedded and name what it wrote
	$(BIN)/scalecli spiral sweep --config spiral/demo --out out/demo/spiral --overwrite
	photos="$$($(PHOTOS))" && $(BIN)/scalecli localize "$$photos/china.jpg" "$$photos/flower.jpg" \
	    temple flower dog --model embedded --compare --out out/demo/localize --overwrite
	$(BIN)/scalecli localize-eval --dataset shapes --model shapes --limit 60 \
	    --method patch-text,maskclip,gem,clearclip,naclip --out out/demo/localize-eval --overwrite
	$(BIN)/scalecli bench-neuron --bf16 --batches-per-execution 10 --device cpu --steps 20 \
	    --repeats 3 --out out/demo/bench-neuron --overwrite
	@echo "Pictures and tables:"
	@find out/demo \( -name '*.png' -o -name results.json \) | sort

lint: $(VENV)/.ready  ## Style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## Lint, types, and every test that takes seconds
	$(BIN)/pytest -n 2 -m "not slow"

# pytest exits 5 when it selects no test.
test-slow: $(VENV)/.ready  ## The tests that take minutes
	$(BIN)/pytest -m slow || [ $$? -eq 5 ]

bench: $(VENV)/.ready  ## Ratios to peers and limits, measured here (about 15 minutes)
	$(BIN)/python -m tests.benchmarks

clean:  ## Remove caches and out/demo; the environment stays
	rm -rf out/demo out/bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find scalecli tests -name __pycache__ -type d -prune -exec rm -rf {} +
