# Two commands for a new user: `make demo` and `make test`. Everything is installed into .venv from
# the package registry; a sourced ROS 2 is used where there is one of the same Python.
DURATION ?= 30
ENGINE ?=
SCENARIO ?= nominal
TASK ?=
MODEL ?=
RATE ?= 100
SWAP ?= 0
JOBS ?= $(shell nproc)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find srdp_controller scripts launch config sim export models resource -type f 2>/dev/null | grep -v __pycache__) setup.py setup.cfg package.xml

.DEFAULT_GOAL := help
.PHONY: help setup setup-test setup-train demo test lint bundle evaluate experiments clean

help:
	@echo 'make setup      .venv with what the demo needs (no torch)'
	@echo 'make demo       simulated robot and controller over DDS: DURATION=30 ENGINE= SCENARIO=nominal TASK= MODEL= RATE=100 SWAP=0'
	@echo 'make test       set-up with the test extras, then all tests'
	@echo 'make lint       ruff, mypy and import contracts'
	@echo 'make bundle     rebuild models/pushing from nothing (needs torch, about two hours on 2 cores)'
	@echo 'make evaluate   closed loop and fidelity of every policy; tables of README, docs and model card'
	@echo 'make experiments ablations, directly trained policies (about two hours)'
	@echo 'make clean      remove .venv, runs and build output'

setup: $(VENV)/.installed

$(VENV)/.installed: $(SOURCES)
	@./scripts/setup sim
	@touch $@

setup-test: $(VENV)/.installed-test

$(VENV)/.installed-test: $(SOURCES)
	@./scripts/setup sim,train,test,metaworld,pusht
	@touch $@ $(VENV)/.installed

setup-train: $(VENV)/.installed-train

$(VENV)/.installed-train: $(SOURCES)
	@./scripts/setup sim,train
	@touch $@ $(VENV)/.installed

demo: setup
	$(BIN)/srdp demo --duration $(DURATION) --scenario $(SCENARIO) --update-rate $(RATE) $(if $(ENGINE),--engine $(ENGINE)) $(if $(TASK),--task $(TASK)) $(if $(MODEL),--model $(MODEL)) $(if $(filter 1,$(SWAP)),--swap)

# what starts nodes and is timed runs alone; the rest shares the processors, a thread each
test: setup-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not ros" -n $(JOBS) --durations=15
	$(BIN)/python -m pytest -m ros --durations=15

lint: setup-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bundle: setup-train
	$(BIN)/srdp pipeline export/pushing.yaml

evaluate: setup-train
	$(BIN)/srdp eval table models/pushing
	for states in test shifted augmented; do $(BIN)/srdp eval fidelity models/pushing --states $$states --count 32 --json results/eval/pushing/fidelity_$$states.json || exit; done
	$(BIN)/srdp eval fidelity models/pushing --states bimodal --count 12 --json results/eval/pushing/fidelity_bimodal.json
	$(BIN)/srdp report tables

experiments: setup-train
	$(BIN)/srdp experiment ablations --json results/experiment/ablations.json
	$(BIN)/srdp experiment direct-policies --json results/experiment/direct_policies.json
	$(BIN)/srdp report tables

clean:
	rm -rf $(VENV) runs build install log *.egg-info
