# Everything a contributor runs. `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
UV ?= uv
# Passed on the command line: make demo IMAGES="my holiday photos" DEMO_ARGS=--short
IMAGES ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=
# A file's tests stay in one process, where they share what its fixtures make.
PYTEST = python -m pytest --numprocesses=2 --dist=loadfile $(PYTEST_ARGS)

# The lock covers every Python pyproject.toml allows, whichever Python runs this.
LOCK_FLAGS ?= --upgrade
COMPILE = $(UV) pip compile --quiet $(LOCK_FLAGS) --universal --python-version 3.10 --custom-compile-command "make lock"

.PHONY: bench-loaders help venv demo docs linkcheck test lint test-oldest test-beam test-io bench bench-convert lock clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: ## .venv with the project (editable) and everything its tests need; quick when nothing changed
	@"$(PYTHON)" scripts/bootstrap.py --venv "$(VENV)"

demo: export TF_CPP_MIN_LOG_LEVEL := 2
# Through the environment rather than pasted into a shell line: quotes, spaces and $ in the path are data.
demo: export DEMO_IMAGES := $(value IMAGES)
demo: venv ## convert, inspect and train on sample images, or on IMAGES=folder; more options by DEMO_ARGS=...
	@"$(VENV)/bin/python" examples/demo.py $${DEMO_IMAGES:+"--images=$$DEMO_IMAGES"} $(DEMO_ARGS)

docs: venv ## the documentation as a site: build/site/index.html
	"$(VENV)/bin/python" -m sphinx -W --keep-going -n -q -b html -c docs -d build/doctrees . build/site

linkcheck: venv ## asks every external link of the documentation; needs the network, no part of `make test`
	"$(VENV)/bin/python" -m sphinx -q -b linkcheck -c docs -d build/doctrees . build/linkcheck

test: export TF_CPP_MIN_LOG_LEVEL := 2
# TensorFlow's pass for oneDNN looks through the list of all kernels for each node of each new graph, and tests make little
# but new graphs: a third of their time. (Convolutions are slower without; few tests have large ones.)
test: export TF_ENABLE_ONEDNN_OPTS := 0
test: lint ## lint, then all tests; PYTEST_ARGS=... narrows them
	"$(VENV)/bin/"$(PYTEST)

lint: venv ## ruff (rules and format) and mypy
	"$(VENV)/bin/python" -m ruff check .
	"$(VENV)/bin/python" -m ruff format --check .
	"$(VENV)/bin/python" -m mypy irv2data tools

test-oldest: export TF_CPP_MIN_LOG_LEVEL := 2
test-oldest: ## the tests on the oldest supported versions (TensorFlow 2.16; Python 3.10 to 3.12)
	@"$(PYTHON)" scripts/bootstrap.py --venv .venv-oldest --constraints requirements/constraints-oldest.txt \
	    --extras dev,docs,report
	.venv-oldest/bin/$(PYTEST)

# An environment of its own: Beam 2.77 holds Pillow and protobuf back.
test-beam: export TF_CPP_MIN_LOG_LEVEL := 2
test-beam: ## the tests of the engine `beam`, in an environment of its own with Apache Beam
	@"$(PYTHON)" scripts/bootstrap.py --venv .venv-beam --constraints requirements/constraints-beam.txt \
	    --extras dev,beam
	.venv-beam/bin/python -m pytest $(PYTEST_ARGS) tests/convert/test_beam.py

# An environment of its own: tensorflow-io 0.37.1 works with TensorFlow 2.16 alone.
test-io: export TF_CPP_MIN_LOG_LEVEL := 2
test-io: ## the tests of the extra `io`, in an environment of its own with tensorflow-io (Python 3.10 to 3.12)
	@"$(PYTHON)" scripts/bootstrap.py --venv .venv-io --constraints requirements/constraints-io.txt --extras dev,io
	.venv-io/bin/python -m pytest $(PYTEST_ARGS) tests/io tests/pipeline/test_others.py tests/pipeline/test_direct.py

bench: export TF_CPP_MIN_LOG_LEVEL := 2
bench: venv ## benchmarks
	"$(VENV)/bin/python" -m benchmarks.import_time

bench-convert: venv ## conversion: speed beside libjpeg-turbo, memory, a million files; ten minutes on an idle machine
	"$(VENV)/bin/python" -m benchmarks.conversion

bench-loaders: export TF_CPP_MIN_LOG_LEVEL := 2
bench-loaders: venv ## the pipeline beside other loaders, which it installs (2 GB); half an hour on an idle machine
	"$(VENV)/bin/python" -m benchmarks.peers install
	"$(VENV)/bin/python" -m benchmarks.loaders
	"$(VENV)/bin/python" -m benchmarks.pipeline
	"$(VENV)/bin/python" -m benchmarks.plan

# The dev extra is in each, so that the tests can run beside io and beam as well.
lock: ## resolve requirements/*.txt anew (needs uv); LOCK_FLAGS= keeps what still fits
	$(COMPILE) pyproject.toml --extra dev --extra report --extra remote --extra tfds --extra cuda \
	    --extra heic --extra lossless --extra docs \
	    --output-file requirements/constraints.txt >/dev/null
	$(COMPILE) pyproject.toml requirements/protobuf4.in --extra dev --extra io \
	    --output-file requirements/constraints-io.txt >/dev/null
	$(COMPILE) pyproject.toml --extra dev --extra beam --output-file requirements/constraints-beam.txt >/dev/null
	$(COMPILE) pyproject.toml requirements/protobuf4.in requirements/oldest.in --extra dev --extra report \
	    --extra docs --extra cuda --output-file requirements/constraints-oldest.txt >/dev/null

clean: ## remove what builds, tests and the demo leave; the virtual environments stay
	rm -rf build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
