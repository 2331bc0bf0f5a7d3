# make demo | test | check | bench | notebooks | clean. Needs Python 3.11 or newer; everything runs in .venv, which make creates.
PYTHON ?= python3
BIN := .venv/bin
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
endif
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test check bench notebooks clean

demo: .venv/installed
	$(BIN)/nncf-ext demo

# The frameworks get a run each: they do not share a process well. Two workers with one thread each suit two cores.
test: export OMP_NUM_THREADS = 1
test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/core tests/torch tests/contract/test_contract_torch.py
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/tensorflow tests/contract/test_contract_tensorflow.py

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/installed
	$(BIN)/python benchmarks/run_all.py

notebooks: .venv/installed
	$(BIN)/python notebooks/execute.py

.venv/installed: setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[torch,tensorflow,openvino,demo,dev]"
	$(BIN)/python -c "open('.venv/installed', 'w').close()"

clean:
	rm -rf .venv build dist *.egg-info
