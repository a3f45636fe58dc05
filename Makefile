# Everything needs only Python 3.10 or newer and make. Environments are made once, and brought up
# to date when pyproject.toml changes.
#
#   make demo               alanine dipeptide from structure to report, in runs/demo
#   make test               all tests with TorchForce (OpenMM 8.4)
#   make test-pythonforce   all tests with PythonForce (the newest OpenMM), in a second environment
#   make lint               ruff
#   make clean              remove environments, caches and runs/demo
#
# Another interpreter: make test PYTHON=python3.12. Arguments for pytest: make test PYTEST_ARGS="-k flow -x -n 0".

PYTHON ?= python3
PYTEST_ARGS ?=

# Any torch from 2.9 on works with PythonForce. This one is tested; the pin keeps the test reproducible.
PYTHONFORCE_TORCH ?= torch==2.13.0

# OpenMM's threads and torch's compete for the same cores: one thread is faster on small systems.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS

INSTALLED := .venv/.installed
INSTALLED_PYTHONFORCE := .venv-pythonforce/.installed

.PHONY: demo test test-pythonforce lint clean

demo: $(INSTALLED)
	.venv/bin/latf run protocols/alanine-dipeptide.yaml -o runs/demo
	@echo "The report is in runs/demo/report.html"

test: $(INSTALLED)
	.venv/bin/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-pythonforce: $(INSTALLED_PYTHONFORCE)
	.venv-pythonforce/bin/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(INSTALLED)
	.venv/bin/ruff check .

$(INSTALLED): WANTED = -e '.[torchforce,test]'
$(INSTALLED_PYTHONFORCE): WANTED = -e '.[pythonforce,test]' '$(PYTHONFORCE_TORCH)'

# A stamp is written last, so what was interrupted is done again.
$(INSTALLED) $(INSTALLED_PYTHONFORCE): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("latf_sampling needs Python 3.10 or newer and $(PYTHON) is %d.%d: name another with make PYTHON=..." % sys.version_info[:2])'
	@echo "Installing into $(@D): a few minutes, once."
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(WANTED)
	@touch $@

clean:
	rm -rf .venv .venv-pythonforce .pytest_cache .ruff_cache build *.egg-info runs/demo
	find . -name __pycache__ -prune -exec rm -rf {} +
