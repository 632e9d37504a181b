# `make demo` and `make test` need git, make and Python 3.11 only; everything else goes into .venv here,
# except the Debian packages that FFCV is built with (root only, announced; MVKIT_NO_APT=1 forbids it).
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
DEMO := demo-output

# What `make test-allen` runs; with .venv-allen there, `make test-all` has run the rest of the folder already.
ALLEN_TESTS ?= tests/allen

.PHONY: help setup demo test test-slow test-all test-floors faults fuzz check audit lock docs docs-outputs wheel bench bench-more gpu allen test-allen clean

help:
	@echo "make setup   set up .venv with everything that the others need"
	@echo "make demo    set up .venv and run fetch, extract, score, prep and train on made-up data of known truth"
	@echo "make test    set up .venv and run all tests but the slow ones"
	@echo "make test-slow  run the slow ones: kills, several processes, README and docs, sweeps, real recordings"
	@echo "make test-all   run every test, also with the lowest versions"
	@echo "make test-floors  run tests with the lowest versions that pyproject.toml allows, in .venv-floors (6 GB)"
	@echo "make faults  disturb every command and damage every kind of file; FAULTS='--only full --runs 10'"
	@echo "make fuzz    feed readers of files and words from others with changed ones, a minute each (FUZZ=pickle: one)"
	@echo "make wheel   build the wheel, install it without a compiler into a fresh environment, and use it there"
	@echo "make check   ruff, mypy --strict, bandit, layer and repository rules, documentation and its links"
	@echo "make audit   look for known vulnerabilities in what is locked (needs pypi.org)"
	@echo "make lock    write the locks anew after a change of pyproject.toml (UPGRADE=1: with the newest versions)"
	@echo "make docs    build the documentation in build/site"
	@echo "make docs-outputs  run the commands of README and docs, and write what they print and draw into the pages"
	@echo "make allen   set up .venv-allen, where AllenSDK runs (for mvkit fetch neural --source allensdk)"
	@echo "make test-allen  run the tests that need AllenSDK, there"
	@echo "make gpu     check on a GPU what the tests check on the CPU, and measure training there"
	@echo "make bench   measure mvkit beside other packages, and write docs/benchmarks.md"
	@echo "make bench-more  run the longer benchmarks, which print their ratios"

setup:
	@$(PYTHON) scripts/bootstrap.py dev ffcv

demo:
	@$(PYTHON) scripts/bootstrap.py ffcv
	@sh scripts/demo.sh $(BIN) $(DEMO)

# One thread per worker: two workers with two OpenMP threads each would wait for one another.
# What the tests of a file share is made once; files with few but long tests come first, as collected.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=20

test: setup
	$(PYTEST) -m "not slow"

test-slow: setup
	$(PYTEST) -m slow

test-all: setup
	$(PYTEST)
	$(MAKE) test-floors

# Old packages warn of what newer ones changed, so warnings are no errors here.
FLOORS_TESTS ?= tests/unit tests/parity
test-floors: setup
	$(BIN)/uv venv --quiet --allow-existing --no-python-downloads --python 3.11 .venv-floors
	$(BIN)/uv pip sync --quiet --require-hashes --python .venv-floors/bin/python locks/floors.txt
	PYTHONPATH=. OMP_NUM_THREADS=1 .venv-floors/bin/python -m pytest -q -n 2 --dist loadfile -p no:cacheprovider \
	  -W default --disable-warnings -m "not slow" $(FLOORS_TESTS)

# Needs gcc and Linux. FAULTS: options of tests/faults/run.py, such as --only full, --runs 10, --seed 2.
faults: setup
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python tests/faults/run.py $(FAULTS)

# With atheris (pip install atheris, Python 3.11) in .venv guided by coverage, without it blindly.
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py $(FUZZ)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive mvkit scripts
	$(BIN)/python -m pytest -q tests/test_repo.py
	$(MAKE) docs

# The lowest versions and Brain-Score's are old on purpose, and no user gets them.
audit: setup
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	  $(addprefix --requirement ,$(filter-out locks/floors.txt locks/brainscore.txt locks/allen-tests.txt,$(wildcard locks/*.txt)))
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	  --requirement mvkit/allen/allen-lock.txt

lock: setup
	$(BIN)/python scripts/lock.py $(if $(UPGRADE),--upgrade)

# Strict: a page that is not in the navigation, a link to nothing or a missing anchor ends it.
docs: setup
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build --quiet
	$(BIN)/python scripts/check_links.py build/site README.md CONTRIBUTING.md SECURITY.md

docs-outputs: setup
	MVKIT_WRITE_PAGES=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests/e2e/test_pages.py

# Needs PyPI; no part of `make test`, since it installs PyTorch once more.
wheel:
	$(PYTHON) scripts/check_wheel.py

# Brain-Score wants numpy 1: an environment of its own (1.2 GB). Without it (no network), its row says "not run".
# A script that finds mvkit slower than it should be ends with code 1; the others run all the same.
RECORD := build/benchmarks.jsonl
bench: setup
	rm -f $(RECORD)
	$(BIN)/uv venv --quiet --allow-existing --no-python-downloads --python 3.11 .venv-bench && \
	  $(BIN)/uv pip sync --quiet --require-hashes --python .venv-bench/bin/python locks/brainscore.txt || rm -rf .venv-bench
	PYTHONPATH=. $$(test -x .venv-bench/bin/python && echo .venv-bench || echo .venv)/bin/python \
	  benchmarks/score_brainscore.py --record $(RECORD)
	-$(BIN)/python benchmarks/score_pls.py --record $(RECORD)
	-$(BIN)/python benchmarks/score_maps.py --repeats 2 --record $(RECORD)
	-$(BIN)/python benchmarks/ceilings.py --quick --record $(RECORD)
	-$(BIN)/python benchmarks/extract_layers.py --record $(RECORD)
	-$(BIN)/python benchmarks/loader_peers.py --record $(RECORD)
	-$(BIN)/python benchmarks/train_step.py alexnet_simclr dual_stream_ir --pairs 4 --record $(RECORD)
	$(BIN)/python benchmarks/benchmarks_page.py $(RECORD)

# Without peers, or long.
bench-more: setup
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/convert_pickle.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/train_run.py
	$(BIN)/python benchmarks/flat_memory.py --scale 0.1

# Needs CUDA and no package index.
gpu:
	$(BIN)/python scripts/gpu_check.py

# AllenSDK needs numpy 1 and pandas 1: an environment of its own, found there by mvkit.
allen:
	@$(PYTHON) scripts/bootstrap.py
	@$(BIN)/mvkit fetch allensdk --into .venv-allen
	@$(BIN)/python -m pip --python .venv-allen/bin/python install --quiet --require-hashes --no-deps -r locks/allen-tests.txt

test-allen: allen
	.venv-allen/bin/python -m pytest -q -p no:cacheprovider $(ALLEN_TESTS)

clean:
	rm -rf .venv .venv.lock .venv-floors .venv-bench .venv-allen .venv-allen.installing ..venv-allen.lock $(DEMO)
