# Every target works on a fresh machine with Python, make and a compiler: it creates .venv and installs by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per test process: two processes fill two cores, and more threads than cores wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: demo test test-slow lint clean

demo: $(VENV)/.installed
	$(BIN)/qvit-deploy compile demo:vit -o out/demo-vit --mean-bits 5 --force
	$(BIN)/qvit-deploy eval out/demo-vit --data demo:fashion-mnist
	$(BIN)/qvit-deploy inspect out/demo-vit

test: $(VENV)/.installed
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow" -n 2

# The ten timm models of the coverage list, the DINOv2 reference where it is present: minutes.
test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[compile,dev]"
	touch $@

clean:
	rm -rf $(VENV) out
