# Every target runs in a virtual environment of its own, which the first of them makes.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test fuzz test-kernels test-aot aot-snapshot lint bench gpu-check clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(INSTALLED) ## make .venv and install everything into it

$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# ttsem executes the kernels in the tests. It asks for Python 3.12 and runs on 3.11 too; all it needs is NumPy.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --ignore-requires-python ttsem
	@touch $@

demo: $(INSTALLED) ## train a teacher and students by ce, kd and bickd on digits100; results in runs/demo
	$(BIN)/python -m training.demo

test: $(INSTALLED) ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

# The random calls are others each time; CASES= sets how many.
fuzz: CASES ?= 100000
fuzz: $(INSTALLED) ## call the losses with 100,000 random batches, options and mistakes, and print statistics
	BICKD_FUZZ_CASES=$(CASES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --hypothesis-show-statistics \
		tests/robustness/test_fuzzing.py

test-kernels: $(INSTALLED) ## execute every kernel on the CPU, from the compiler's intermediate code
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/kernels --ignore tests/kernels/test_resources.py

test-aot: $(INSTALLED) ## compile every kernel for GPUs that are not there, and check what it takes of them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/kernels/test_resources.py

aot-snapshot: $(INSTALLED) ## renew the snapshot that test-aot compares with
	BICKD_RENEW_SNAPSHOT=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/kernels/test_resources.py

lint: $(INSTALLED) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED) ## time and memory of the loss against autograd and torch.compile
	$(BIN)/python -m benchmarks.bilateral

gpu-check: $(INSTALLED) ## on a machine with a GPU: check and time the kernels there; report in runs/gpu-check
	$(BIN)/python -m benchmarks.gpu_check

clean: ## remove the virtual environment and the caches, keep runs/
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build dist
