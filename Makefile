# make demo | test | bench | deb | clean.  The first call installs into .venv; later ones work offline.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# It is wanted for the axe-core in it; what it depends on is a browser of its own, which is not.
AXE := axe-playwright-python==0.1.8

.PHONY: demo test bench deb clean

demo: $(INSTALLED)
	$(BIN)/python -m demo

test: $(INSTALLED)
	$(BIN)/python -m tests

bench: $(INSTALLED)
	$(BIN)/python bench/loopback.py

# A package for Debian 12, in dist/; packaging/try-deb tries it in a clean root.
deb:
	packaging/build-deb

# The compat mode puts this folder itself on sys.path: Twisted finds twisted/plugins there.
$(INSTALLED): setup.py Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --config-settings editable_mode=compat -e '.[test,demo]'
	$(BIN)/pip install --disable-pip-version-check --no-deps $(AXE)
	touch $@

clean:
	rm -rf $(VENV) .demo .cache .mypy_cache .ruff_cache .hypothesis _trial_temp* build dist *.egg-info
	rm -f twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
