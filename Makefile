# Every target makes the environment it needs; `make demo` and `make test` work on a fresh machine.
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test nightly check format lint types docs figures benchmarks capabilities zoo clean

demo: $(STAMP)
	$(BIN)/atlas demo

# Two workers of one thread each: more threads than cores is far slower than one.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Many more faults, kills and fuzzed inputs than `make test` has: an hour or so.
nightly: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m nightly

check: format-check lint types test

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

format-check: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy
	MYPYPATH=benchmarks:tests $(BIN)/mypy --follow-imports=silent benchmarks/*.py

# The site, in build/docs; a broken link or an unknown name fails.
docs: $(STAMP)
	$(BIN)/python -m sphinx -W -n --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"

# Draws the figures of docs/methods/ and the contact sheet again, from runs of the embedded models: a few minutes.
figures: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python docs/figures.py
	OMP_NUM_THREADS=1 $(BIN)/python docs/contact_sheet.py

benchmarks: $(STAMP)
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

# Writes the matrix of model families (atlas/capabilities.json, docs/models.md) from what the checks find.
capabilities: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/family_checks.py

# Trains the embedded models again, from the seed: two or three hours on two cores.
zoo: $(STAMP)
	for name in tiny-llava tiny-audio tiny-gill; do $(BIN)/python -m ingest.zoo.train $$name --out ingest/zoo/$$name || exit 1; done

$(STAMP): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0 --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
