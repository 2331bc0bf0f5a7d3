# make demo | test | test-core | test-all | fuzz | check | bench | results | zoo | docs | notebooks | clean. Needs Python 3.11 or newer; everything runs in .venv, which make creates.
PYTHON ?= python3
BIN := .venv/bin
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
endif
export TF_CPP_MIN_LOG_LEVEL ?= 3
SITE = $(BIN)/python -m sphinx -W --keep-going -b html -c docs -q . build/site

.PHONY: demo test test-core test-all fuzz check bench results zoo docs notebooks clean

demo: .venv/installed
	$(BIN)/nncf-ext demo

# The frameworks get a run each: they do not share a process well. Two workers with one thread each suit two cores; the longest
# file comes first, so that they end together.
test test-core test-all: export OMP_NUM_THREADS = 1
test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" tests/contract/test_contract_torch.py tests/torch tests/contract/test_contract_numpy.py tests/core
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" tests/contract/test_contract_tensorflow.py tests/tensorflow

# The core and the contract over numpy, in an environment that has neither PyTorch nor TensorFlow.
test-core: .venv-core/installed
	$(BIN:.venv/%=.venv-core/%)/python -m pytest -n 2 --dist loadfile -m "not slow" tests/contract/test_contract_numpy.py tests/core

# With whole trainings, notebooks and compilations: half an hour on two cores.
test-all: check
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/contract/test_contract_torch.py tests/torch tests/contract/test_contract_numpy.py tests/core
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/contract/test_contract_tensorflow.py tests/tensorflow

# 159,000 damaged files, configs and states, 200 kills; writes docs/reliability.md. Ten minutes on two cores: FUZZ="--scale 0.1" is a tenth.
fuzz: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(FUZZ)

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(SITE)

bench: .venv/installed .venv-peers/installed .venv-tfmot/installed
	$(BIN)/python -m benchmarks.run_all

results: .venv/installed
	$(BIN)/python -m benchmarks.results
	$(BIN)/python -m benchmarks.results_sparse
	$(BIN)/python -m benchmarks.results_learned
	$(BIN)/python -m benchmarks.results_packed
	$(BIN)/python -m benchmarks.results_soups
	$(BIN)/python -m benchmarks.results_quantizers

zoo: .venv/installed .venv-zoo/installed
	$(BIN)/python -m benchmarks.zoo

# The site, in build/site.
docs: .venv/installed
	$(BIN)/python docs/write.py
	$(SITE)

notebooks: .venv/installed
	$(BIN)/python notebooks/execute.py

.venv/installed: setup.cfg setup.py pyproject.toml constraints.txt $(wildcard adapters/nncf_ext_torch/csrc/*.c)
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[torch,tensorflow,openvino,demo,dev]"
	$(BIN)/python -c "open('.venv/installed', 'w').close()"

.venv-core/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv-core
	$(BIN:.venv/%=.venv-core/%)/python -m pip install -q -c constraints.txt -e ".[core-tests]"
	$(PYTHON) -c "open('.venv-core/installed', 'w').close()"

# What the benchmarks compare with, in environments of its own: its versions exclude ours.
.venv-peers/installed: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv .venv-peers
	$(BIN:.venv/%=.venv-peers/%)/python -m pip install -q torch==2.13.0
	$(BIN:.venv/%=.venv-peers/%)/python -m pip install -q -r benchmarks/requirements-peers.txt
	$(PYTHON) -c "open('.venv-peers/installed', 'w').close()"

.venv-tfmot/installed: benchmarks/requirements-tfmot.txt
	$(PYTHON) -m venv .venv-tfmot
	$(BIN:.venv/%=.venv-tfmot/%)/python -m pip install -q tensorflow==2.21.0
	$(BIN:.venv/%=.venv-tfmot/%)/python -m pip install -q --no-deps -r benchmarks/requirements-tfmot.txt
	$(PYTHON) -c "open('.venv-tfmot/installed', 'w').close()"

# torchvision imports only beside the newest PyTorch; nncf_ext is tried with that one too.
.venv-zoo/installed: benchmarks/requirements-zoo.txt setup.cfg
	$(PYTHON) -m venv .venv-zoo
	$(BIN:.venv/%=.venv-zoo/%)/python -m pip install -q -r benchmarks/requirements-zoo.txt -e ".[torch,bench]"
	$(PYTHON) -c "open('.venv-zoo/installed', 'w').close()"

clean:
	rm -rf .venv .venv-core .venv-peers .venv-tfmot .venv-zoo build dist *.egg-info
