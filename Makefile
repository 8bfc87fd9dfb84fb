# Two commands on a fresh machine with Python 3.11 to 3.13, make and a C compiler:
#   make figures   every notebook at preset ci -> runs/ci/index.html
#   make test      ruff and pytest, the notebooks included; leaves everything else in this folder as it was
# And what they show, as a site: make gallery (of the committed notebooks), make gallery RUN=runs/ci (of a run).
# make install LOCK=1 takes exactly the versions of requirements.lock, also where .venv is there already.
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
VENV ?= .venv
LOWEST ?= build/lowest
BIN := $(VENV)/bin
PIP ?= "$(BIN)/python" -m pip

# Stamps of what is installed. A target with spaces in its path has to have them escaped, a command has to have it quoted.
space := $(subst ,, )
STAMPS := $(subst $(space),\ ,$(VENV))
READY := $(STAMPS)/.ready$(if $(LOCK),-locked)
DOCS := $(STAMPS)/.docs

# Every pip below is held to the lock, those that build and install learn2learn included.
ifdef LOCK
export PIP_CONSTRAINT := requirements.lock
endif

.PHONY: figures test test-gpu test-lowest test-arithmetic test-pythons fuzz claims gallery install browser learn2learn lint \
        format laptop clean
# `make -j figures test`: tests that watch this folder must not run beside what writes in it.
.NOTPARALLEL:

figures: $(READY)
	"$(BIN)/tp4" reproduce --preset ci --out runs/ci

# In two processes, each file in one of them.
test: lint $(DOCS) browser
	"$(BIN)/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The same tests with every direct dependency at its lower bound, in an environment of its own.
test-lowest:
	$(PYTHON) -m venv "$(LOWEST)"
	$(PYTHON) tools/supply.py lowest > "$(LOWEST)/constraints.txt"
	"$(LOWEST)/bin/python" -m pip install -q -e '.[notebooks,test]' -c "$(LOWEST)/constraints.txt"
	$(MAKE) learn2learn PIP='"$(LOWEST)/bin/python" -m pip'
	"$(LOWEST)/bin/python" -m pytest

# The numerical tests as on other processors and with 1, 2 and 4 threads; tools/arithmetic.py has the table.
test-arithmetic: $(READY)
	"$(BIN)/python" tools/arithmetic.py

# What takes a device, on the GPU of this machine; without one the same tests run on a pretended GPU, in `make test`.
test-gpu: $(READY)
	TP4_TEST_GPU=1 "$(BIN)/python" -m pytest tests/test_gpu.py

# `make test` with each of PYTHONS, in an environment of its own: make test-pythons PYTHONS="python3.12 python3.13"
test-pythons:
	@for python in $(PYTHONS); do \
	  $(MAKE) test PYTHON=$$python VENV=build/$$(basename $$python) || failed="$$failed $$python"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

# 10,000 random inputs for each thing that reads one; at the end what became of them is counted.
fuzz: $(READY)
	log=$$(mktemp) && TP4_FUZZ=10000 TP4_FUZZ_LOG=$$log "$(BIN)/python" -m pytest tests/test_fuzz.py --hypothesis-seed=0; \
	code=$$?; cat $$log; rm -f $$log; exit $$code

# Every number in prose with its source; fails where one was typed by hand that a run could contradict.
claims: $(READY)
	"$(BIN)/python" tools/claims.py

# Sphinx over the executed notebooks -> docs/_build/html/index.html; runs nothing, fetches nothing.
gallery: $(DOCS)
	"$(BIN)/python" docs/build.py $(if $(RUN),--run "$(RUN)")

lint: $(READY)
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

format: $(READY)
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

# The outputs that are committed: real data (TP4_DATA, or downloaded); `tp4 doctor` says what it takes.
laptop: $(READY)
	"$(BIN)/tp4" reproduce --preset laptop --out runs/laptop --workers 2 --in-place

install: $(READY)

$(READY): pyproject.toml Makefile $(if $(LOCK),requirements.lock)
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "tp4 needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv "$(VENV)"
	"$(BIN)/python" -m pip install -q --upgrade pip
	"$(BIN)/python" -m pip install -q -e '.[notebooks,test]'
	$(MAKE) learn2learn
	rm -f "$(VENV)/.ready-locked"
	touch "$(VENV)/.ready" "$@"

# What the gallery needs besides; a stamp of its own, so that `make figures` installs no more than it uses.
$(DOCS): $(READY)
	"$(BIN)/python" -m pip install -q -e '.[docs]'
	touch "$@"

# The tests that look at pages need Chromium. Root on Debian gets it; elsewhere, and when it cannot be had, they are
# skipped with the reason.
browser:
	@{ command -v chromium || command -v google-chrome; } >/dev/null && command -v chromedriver >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get update -qq \
	     && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium chromium-driver; } >/dev/null 2>&1 </dev/null \
	|| echo "no Chromium could be installed: the tests that need a browser will be skipped"

# learn2learn 0.2.0 has no wheel, and its source distribution ships C files that were generated for Python < 3.11.
# So: Cython makes them anew (build_ext), in this environment (no build isolation) with a setuptools that still has
# pkg_resources; without its declared dependencies, because qpth would hold NumPy under 2. What it really imports
# (torchvision, gym) is among our own dependencies. In a conda environment: make learn2learn PIP=pip
learn2learn:
	$(PIP) install -q 'cython>=3' 'setuptools<81' wheel
	$(PIP) install -q --no-build-isolation --no-deps learn2learn==0.2.0 --config-settings=--global-option=build_ext

clean:
	rm -rf runs docs/_build .pytest_cache .ruff_cache .hypothesis
