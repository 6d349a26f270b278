# make demo      set up, then run the default chain from end to end
# make test      set up, then run all tests
# make check     set up, then lint, types and the fast tests
# make table     set up, then the comparison over three seeds that the README shows
# make faults    set up, then stop and restart the real commands some 280 times, and compare what they make
# make benchmark set up, then measure what speed is promised (BENCHMARK="preset=cpu_124m" for more)
# make profile   set up, then show what the time of the default chain goes into, on few steps
# make scale     set up, then a million imported solutions through judging, aligning and writing
# make sweep     set up, then fifty small jobs, four at once, over one store
# make fuzz      set up, then give 100,000 spoiled inputs to every reader (FUZZ="--seed 7" repeats)
# make clean     remove what tests and tools left behind (not the environment, not artifacts)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_WORKERS ?= 2

.PHONY: venv demo test check table faults benchmark profile scale sweep fuzz clean

venv: $(READY)

# Made anew only when the pins or the package's own metadata change. An environment that pip left
# half installed has no stamp and is completed by the next call.
$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY)
	$(BIN)/python train.py

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadscope --no-loadscope-reorder --durations=15

check: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright
	$(BIN)/python -m pytest -m "not slow"

table: $(READY)
	$(BIN)/python train.py -m seed=1,2,3

faults: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults $(FAULTS)

benchmark: $(READY)
	$(BIN)/python -m benchmarks $(BENCHMARK)

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
