# Every target works on a fresh machine with Python, make and a compiler: it creates .venv and installs by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per test process: two processes fill two cores, and more threads than cores wait for each other. Bytecode is
# kept even where the environment forbids it: tests start the program some hundred times.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 -rs

.PHONY: demo test test-slow test-all coverage lint clean

demo: $(VENV)/.installed
	$(BIN)/qvit-deploy compile demo:vit -o out/demo-vit --mean-bits 5 --force
	$(BIN)/qvit-deploy eval out/demo-vit --data demo:fashion-mnist
	$(BIN)/qvit-deploy inspect out/demo-vit

test: $(VENV)/.installed
	$(PYTEST) -m "not slow"

# The ten timm models of the coverage list, the DINOv2 reference where it is present: minutes.
test-slow: $(VENV)/.installed
	$(PYTEST) -m slow

# Both at once: the short tests fill the process that ends its long ones first.
test-all: $(VENV)/.installed
	$(PYTEST)

# Line coverage by package of what `make test` runs, processes that tests start included.
coverage: $(VENV)/.installed
	$(PYTEST) -m "not slow" --cov --cov-report=json:out/coverage.json
	$(BIN)/python -m tools.ci.coverage_by_package out/coverage.json

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[compile,dev]"
	touch $@

clean:
	rm -rf $(VENV) out
