# Two commands do all the set-up: `make demo` and `make test`. Both create .venv when it is not there.
#   TORCH=...       another PyTorch than the lock's, for example TORCH="torch==2.11.0"
#   TORCH_INDEX=... an index to take PyTorch from, for example the one of PyTorch's own CPU or CUDA builds
#   PYTHON=...      another interpreter (3.11 or newer)

# The versions that are tested, of everything.
LOCK := configs/requirements.lock
TORCH ?= $(shell grep '^torch==' $(LOCK))
TORCH_INDEX ?=
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
GATO := $(BIN)/gato
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := sh configs/install.sh $(BIN)/python
# Everything the demo makes stays in this folder; `make clean` removes it.
export GATO_HOME ?= $(CURDIR)/demo
# Threads that wait sleep, where nobody chose otherwise: spinning ones hold up whoever works on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 1000

.PHONY: demo install gpu test test-all test-oldest test-newest check types lock docs wheel clean

demo: $(VENV)/ready
	@BIN=$(BIN) sh samples/demo.sh

# For those who come with data of their own and skip the demo.
install: $(VENV)/ready

test: $(VENV)/tested
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

test-all: $(VENV)/tested
	$(BIN)/python -m pytest -q

$(VENV)/ready: pyproject.toml Makefile $(LOCK)
	@echo "installing into $(VENV), in the versions of $(LOCK) (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(INSTALL) -e ".[test]"
	@$(INSTALL) setuptools wheel ninja py-cpuinfo && DS_BUILD_OPS=0 $(INSTALL) --no-build-isolation deepspeed \
		|| echo "DeepSpeed does not build here; training works without it ('gato doctor' says more)"
	@touch $@

# What only tests need, kept out of the demo's way.
$(VENV)/tested: $(VENV)/ready
	$(INSTALL) -e ".[test,page,serve,embeddings]" || echo "the packages of page and server do not install here; their tests are skipped"
	@touch $@

# The lock is made anew from the ranges of pyproject.toml, newest first, and what changed is printed. What PyTorch asks for
# on a GPU (nvidia-*, triton) is left to the build that is chosen. `make lock TORCH=torch==...` moves PyTorch.
lock: $(VENV)/ready
	@printf '%s\n' uv setuptools wheel ninja py-cpuinfo > $(VENV)/build.in
	@echo "$(TORCH)" > $(VENV)/torch.in
	@cp $(LOCK) $(VENV)/old.lock
	@$(BIN)/python -m uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header -c $(VENV)/torch.in \
		--extra dev --extra page --extra serve --extra embeddings --extra deepspeed --extra suites --extra docs --extra notebooks pyproject.toml $(VENV)/build.in -o $(VENV)/new.lock
	@grep -Ev '^(nvidia-|cuda-|triton)' $(VENV)/new.lock > $(LOCK)
	@diff $(VENV)/old.lock $(LOCK) | grep '^[<>]' || echo "nothing changed"

# Correctness and speed on a GPU, within eight minutes, into docs/results; without one, at toy size, and nothing is written.
gpu: $(VENV)/tested
	$(BIN)/python benchmarks/gpu.py $(if $(shell command -v nvidia-smi),,--toy)

# The suite at both ends of the ranges, each in an environment of its own; docs/libraries.md holds the results.
test-oldest test-newest: $(VENV)/ready
	$(BIN)/python benchmarks/ranges.py $(@:test-%=%)

check: $(VENV)/ready
	$(INSTALL) ruff
	$(BIN)/ruff format --check gato tokenizers data train eval tests benchmarks plugins
	$(BIN)/ruff check gato tokenizers data train eval tests benchmarks plugins

types: $(VENV)/ready
	$(INSTALL) mypy
	rm -rf build/types && $(PIP) install -q --no-deps --target build/types .
	cd build/types && ../../$(BIN)/python -m mypy -p gato

# The pages of docs/ and the API as a site in build/site, which opens from its files; docs/site.py says what is in it.
docs: $(VENV)/ready
	$(INSTALL) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: $(VENV)/ready
	$(INSTALL) build
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist demo runs/demo *.egg-info .pytest_cache .mypy_cache .ruff_cache
