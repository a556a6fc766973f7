# Two commands do all the set-up: `make demo` and `make test`. Both create .venv when it is not there.
#   TORCH=...       another PyTorch requirement, for example TORCH="torch==2.11.0"
#   TORCH_INDEX=... an index to take PyTorch from, for example the one of PyTorch's own CPU or CUDA builds
#   PYTHON=...      another interpreter (3.11 or newer)

# The tested PyTorch: the one place that names it.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
GATO := $(BIN)/gato
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Everything the demo makes stays in this folder; `make clean` removes it.
export GATO_HOME ?= $(CURDIR)/demo

.PHONY: demo test test-all check types wheel clean

demo: $(VENV)/ready
	@BIN=$(BIN) sh samples/demo.sh

test: $(VENV)/tested
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

test-all: $(VENV)/tested
	$(BIN)/python -m pytest -q

$(VENV)/ready: pyproject.toml Makefile
	@echo "installing into $(VENV) (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(PIP) install -q -e ".[test]" "torch==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("torch").split("+")[0])')"
	@$(PIP) install -q setuptools wheel ninja py-cpuinfo && DS_BUILD_OPS=0 $(PIP) install -q --no-build-isolation "deepspeed>=0.18" \
		|| echo "DeepSpeed does not build here; training works without it ('gato doctor' says more)"
	@touch $@

# What only tests need, kept out of the demo's way.
$(VENV)/tested: $(VENV)/ready
	$(PIP) install -q -e ".[test,page,embeddings]" || echo "the web page's packages do not install here; its tests are skipped"
	@touch $@

check: $(VENV)/ready
	$(PIP) install -q ruff
	$(BIN)/ruff format --check gato tokenizers data train eval tests benchmarks
	$(BIN)/ruff check gato tokenizers data train eval tests benchmarks

types: $(VENV)/ready
	$(PIP) install -q mypy
	rm -rf build/types && $(PIP) install -q --no-deps --target build/types .
	cd build/types && ../../$(BIN)/python -m mypy -p gato

wheel: $(VENV)/ready
	$(PIP) install -q build
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist demo runs/demo *.egg-info .pytest_cache .mypy_cache .ruff_cache
