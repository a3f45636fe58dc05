# Everything needs only Python 3.10 or newer and make. The environment is made once, and brought up to date when
# pyproject.toml changes.
#
#   make demo    alanine dipeptide from structure to report, in runs/demo
#   make test    all tests, every bias on both backends
#   make lint    ruff (check and format) and the type checker
#   make docs    the documentation, in build/docs
#   make wheel   source distribution and wheel, and the wheel in an environment of its own, in build/wheel
#   make gpu     on a machine with a GPU: doctor, tests and benchmarks there (benchmarks/gpu.sh)
#   make clean   remove environment, caches and runs/demo
#
# Another interpreter: make test PYTHON=python3.12. Arguments for pytest: make test PYTEST_ARGS="-k flow -x -n 0".

# A build of PLUMED, for the tests that compare with it. Its package would bring ninety others along, of which PLUMED
# needs none; it is 24 MB and needs Python 3.11.
PLUMED := 'hillclimber==0.1.8; python_version >= "3.11"'

PYTHON ?= python3
PYTEST_ARGS ?=

# OpenMM's threads and torch's compete for the same cores: one thread is faster on small systems.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

INSTALLED := .venv/.installed
DOCS_INSTALLED := .venv/.docs

.PHONY: demo test lint docs wheel gpu clean

demo: $(INSTALLED)
	.venv/bin/latf run protocols/alanine-dipeptide.yaml -o runs/demo
	@echo "The report is in runs/demo/report.html"

test: $(INSTALLED)
	.venv/bin/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright

docs: $(DOCS_INSTALLED)
	rm -rf build/docs
	.venv/bin/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "The first page is build/docs/index.html"

wheel: $(INSTALLED)
	.ci/wheel

gpu: $(INSTALLED)
	PYTHON=.venv/bin/python bash benchmarks/gpu.sh run runs/gpu

# The stamp is written last, so that an interrupted installation is done again. Python compiles the modules that it
# imports, a quarter of those that are installed; pip would compile them all, which takes most of a minute.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("latf_sampling needs Python 3.10 or newer and $(PYTHON) is %d.%d: name another with make PYTHON=..." % sys.version_info[:2])'
	@echo "Installing into $(@D): a few minutes, once."
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[test]'
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --target $(@D)/plumed $(PLUMED)
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[docs]'
	@touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache build *.egg-info runs/demo
	find . -name __pycache__ -prune -exec rm -rf {} +
