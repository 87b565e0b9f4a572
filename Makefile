# Every target runs in the project's own virtual environment; the first one creates it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

# PyTorch versions other than the one in constraints.txt, oldest first: together, every minor version from the oldest that
# pyproject.toml allows to the newest that the library does not warn about. The oldest one for the trainer comes with its
# torchvision; the others test only the library.
TRAINER_MATRIX := 2.8.0+0.23.0
LIBRARY_MATRIX := 2.6.0 2.7.1 2.9.1 2.10.0 2.11.0 2.12.1 2.13.0

# Simulated machines: the CPU instructions that PyTorch may use, and its number of threads. Not listed: this machine's own
# instructions with one thread, which all other tests use.
MACHINES := native-2 avx2-1 avx2-2 default-1 default-2

# The tests that compare the library's numbers, except those that spend their time in a compiler or in new processes.
NUMERIC := $(addprefix tests/,test_functional.py test_autograd.py test_modules.py test_edge_cases.py test_properties.py \
    test_options.py test_reference.py backends/test_torch.py robustness/test_fuzzing.py)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-machines fuzz test-kernels test-aot aot-snapshot test-matrix package-check audit docs lint \
    bench bench-check gpu-check clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(INSTALLED) ## make .venv and install everything into it

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# ttsem executes the kernels in the tests. It declares Python 3.12 but also runs on 3.11, and needs only NumPy.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --ignore-requires-python ttsem
	@touch $@

demo: $(INSTALLED) ## train a teacher and students by ce, kd, dist and bickd on digits100; results in runs/demo
	$(BIN)/python -m training.demo

test: $(INSTALLED) ## run the test suite, and then make test-machines
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto
	$(MAKE) test-machines

test-machines: $(MACHINES:%=test-machine-%) ## run the numeric tests with fewer instructions, and with two threads

# Threads that wait without spinning leave the cores to the other test processes.
test-machine-%: $(INSTALLED)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive BICKD_TEST_THREADS=$(lastword $(subst -, ,$*)) \
	    $(if $(filter native-%,$*),,ATEN_CPU_CAPABILITY=$(firstword $(subst -, ,$*))) $(BIN)/python -m pytest -q -n auto $(NUMERIC)

# Every run draws new random calls; CASES= sets their number.
fuzz: CASES ?= 100000
fuzz: $(INSTALLED) ## call the losses with 100,000 random batches, options and mistakes, and print statistics
	BICKD_FUZZ_CASES=$(CASES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --hypothesis-show-statistics \
		tests/robustness/test_fuzzing.py

test-kernels: $(INSTALLED) ## execute every kernel on the CPU, from the compiler's intermediate code
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/kernels --ignore tests/kernels/test_resources.py

test-aot: $(INSTALLED) ## compile every kernel for several GPUs, without one, and check its resource usage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/kernels/test_resources.py

aot-snapshot: $(INSTALLED) ## update the snapshot that test-aot compares with
	BICKD_RENEW_SNAPSHOT=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/kernels/test_resources.py

# A failing version does not stop the later ones. Kernels are tested only with the Triton of constraints.txt, because their tests
# rely on its internals. Set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL to make pip use other wheels, such as the smaller CPU-only ones.
test-matrix: ## run the tests on every supported PyTorch; table and logs in .venv-matrix
	rm -rf .venv-matrix
	mkdir .venv-matrix
	$(MAKE) --keep-going --jobs=1 test $(LIBRARY_MATRIX:%=test-library-%) $(TRAINER_MATRIX:%=test-trainer-%); \
	    status=$$?; cat .venv-matrix/results; exit $$status

test-library-%:
	$(call in_environment,torch==$*,test,--ignore tests/training --ignore tests/benchmarks)

test-trainer-%:
	$(call in_environment,torch==$(word 1,$(subst +, ,$*)) torchvision==$(word 2,$(subst +, ,$*)),dev,)

# $(call in_environment,PACKAGES,EXTRA,ARGUMENTS OF PYTEST): runs the tests in an environment that is removed afterwards, because
# each takes several gigabytes. The last printed line goes into the table.
define in_environment
	mkdir -p .venv-matrix
	{ $(PYTHON) -m venv .venv-matrix/$@ && \
	    .venv-matrix/$@/bin/python -m pip install --quiet --no-cache-dir $(1) --editable '.[$(2)]' && \
	    OMP_NUM_THREADS=1 .venv-matrix/$@/bin/python -m pytest -q -n auto $(3); } > .venv-matrix/$@.log 2>&1; \
	    status=$$?; rm -rf .venv-matrix/$@; grep -E '^(FAILED|ERROR)' .venv-matrix/$@.log; \
	    echo "$@: $$(tail -n 1 .venv-matrix/$@.log)" | tee -a .venv-matrix/results; exit $$status
endef

package-check: $(INSTALLED) ## build the package, install it into an empty environment, and run its self-check there
	rm -rf dist .venv-package
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/python -m pip install --quiet --no-deps --no-index dist/bickd_kernels-*.whl
	@# The new environment borrows dependencies from .venv, because PyTorch alone would take several more gigabytes. This comes
	@# after the installation, which must not see the package in .venv.
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    > $$(.venv-package/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/lent.pth
	cd .venv-package && bin/python -c "import bickd_kernels; assert '.venv-package' in bickd_kernels.__file__"
	cd .venv-package && bin/python -m bickd_kernels

audit: $(INSTALLED) ## look for known vulnerabilities in everything that make install resolves
	$(BIN)/python -m pip freeze --exclude-editable > .venv/frozen.txt
	@# Strict: a package that the service has no answer for counts as a failure.
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement .venv/frozen.txt

docs: $(INSTALLED) ## check the links of the documents, and run every code block that is marked as runnable
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto -m '' tests/documents

lint: $(INSTALLED) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED) ## time and memory of the loss against autograd, torch.compile and simpler losses; into runs/bench
	$(BIN)/python -m benchmarks

bench-check: $(INSTALLED) ## check that the torch backend is as fast and small as it was, relative to the rest of the run
	$(BIN)/python -m benchmarks.regressions

gpu-check: $(INSTALLED) ## on a machine with a GPU: check and time the kernels in 8 minutes; report in runs/gpu-check
	$(BIN)/python -m benchmarks.gpu_check

clean: ## remove the virtual environment and the caches, keep runs/
	rm -rf .venv .venv-matrix .venv-package .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build dist
