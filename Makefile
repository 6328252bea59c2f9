# make demo   set up, then play the shipped sequence through the real node and ask it questions; results in out/demo/
# make test   set up, then run the whole test suite
# make venv   the environment alone: packages at the versions of requirements.lock, interfaces, the project itself
# make lock   requirements.lock anew after a change of requirements*.txt; needs uv. UPGRADE=1 takes the newest of all
#
# Each step leaves a stamp in the environment and runs again only when its inputs change.
# PYTHON chooses the interpreter the environment is made from: make PYTHON=python3.12 venv

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps
INTERFACES := $(wildcard msg/package.xml msg/CMakeLists.txt msg/*/*.msg msg/*/*.srv scripts/interfaces/*/*.* \
                scripts/interfaces/*/msg/*.msg) scripts/build_interfaces.py scripts/wheel_targets.cmake

# An environment that was moved or copied holds paths of its old place: it is made anew.
MOVED := $(shell test -e "$(STAMPS)/location" && test "$$(cat "$(STAMPS)/location")" != "$(CURDIR)" && echo yes)
ifeq ($(MOVED),yes)
.PHONY: $(STAMPS)/venv
endif

# In a shell that sourced a ROS install, its packages would be found before those of the environment; and the wheels carry
# one middleware only, whichever RMW_IMPLEMENTATION asks for.
ifdef AMENT_PREFIX_PATH
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH RMW_IMPLEMENTATION ROS_DISTRO
endif

.PHONY: venv interfaces demo test lint format lock clean
.DELETE_ON_ERROR:

venv: $(STAMPS)/project $(STAMPS)/interfaces

interfaces: $(STAMPS)/interfaces

demo: venv
	$(PY) -m chorus_ros.demo

test: venv
	$(PY) -m pytest -q

lint: venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: venv
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lock:
	uv pip compile requirements-dev.txt --universal --python-version 3.10 --no-annotate --quiet $(if $(UPGRADE),--upgrade) \
	    --custom-compile-command "make lock" -o requirements.lock

clean:
	rm -rf out build install log .pytest_cache .ruff_cache .hypothesis

$(STAMPS)/venv: scripts/check_host.sh
	@sh scripts/check_host.sh "$(PYTHON)"
	@test -z "$(MOVED)" && "$(PY)" -c "import pip" 2>/dev/null || "$(PYTHON)" -m venv --clear "$(VENV)"
	@mkdir -p "$(STAMPS)" && echo "$(CURDIR)" > "$(STAMPS)/location" && touch "$@"

$(STAMPS)/requirements: $(wildcard requirements*.txt) requirements.lock $(STAMPS)/venv
	"$(PY)" -m pip install -r requirements-dev.txt -c requirements.lock
	@touch "$@"

$(STAMPS)/interfaces: $(INTERFACES) $(STAMPS)/requirements
	"$(PY)" scripts/build_interfaces.py
	@touch "$@"

$(STAMPS)/project: setup.py setup.cfg package.xml $(STAMPS)/requirements
	PYTHONWARNINGS=ignore "$(PY)" -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch "$@"
