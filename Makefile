PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help ablation demo lint format test test-all

help: ## what can be made
	@grep -hE '^[a-z_.]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

.venv: .venv/installed ## the environment, in the versions of constraints.txt

lint: .venv/installed ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/installed ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tests of a file stay in one process, because they share fixtures. Files run in the order of tests/conftest.py, long ones first.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder --durations=15

test: .venv/installed ## the quick tests, in a few minutes; no accelerator needed
	$(PYTEST) -m "not gpu and not slow"

test-all: .venv/installed ## all tests that need no accelerator, killed and parallel runs too
	$(PYTEST) -m "not gpu"

# The demo: every stage is a plain train.py line. A stage that was interrupted goes on from its last checkpoint; a finished one is kept.
RUNS ?= runs/demo
TRAIN := $(BIN)/python train.py
ROOT = --trainer.default_root_dir
LAST := checkpoints/last.ckpt
RESUME = $(if $(wildcard $(@D)/$(LAST)),--ckpt_path last)

demo: $(RUNS)/7_continued/done ## train everything on moving digits in ten to twenty minutes, then make videos
	@echo
	@echo "generated from classes      $(RUNS)/6_samples/samples/contact_sheet.png"
	@echo "continued from an image     $(RUNS)/7_continued/samples/contact_sheet.png"
	@echo "videos                      the .mp4 beside them, and .webp to look at; long_*.mp4 are extended to 65 frames"
	@echo "scores                      $(RUNS)/5_test/report.json and report.png"

$(RUNS)/1_image_tokenizer/done: .venv/installed
	$(TRAIN) fit -c configs/tokenizer.yaml -c configs/stage/1_images.yaml $(ROOT) $(@D) $(RESUME)
	@touch $@

$(RUNS)/2_video_tokenizer/done: $(RUNS)/1_image_tokenizer/done
	$(TRAIN) fit -c configs/tokenizer.yaml -c configs/stage/2_video.yaml --init_from $(<D)/$(LAST) $(ROOT) $(@D) $(RESUME)
	@touch $@

$(RUNS)/3_short_clips/done: $(RUNS)/2_video_tokenizer/done
	$(TRAIN) fit -c configs/videoar.yaml -c configs/stage/3_short_clips.yaml --init_from $(<D)/$(LAST) $(ROOT) $(@D) $(RESUME)
	@touch $@

$(RUNS)/4_long_clips/done: $(RUNS)/3_short_clips/done
	$(TRAIN) fit -c configs/videoar.yaml -c configs/stage/4_long_clips.yaml --init_from $(<D)/$(LAST) $(ROOT) $(@D) $(RESUME)
	@touch $@

$(RUNS)/5_test/done: $(RUNS)/4_long_clips/done
	$(TRAIN) test -c configs/videoar.yaml --ckpt_path $(<D)/$(LAST) $(ROOT) $(@D)
	@touch $@

$(RUNS)/6_samples/done: $(RUNS)/4_long_clips/done $(RUNS)/5_test/done
	$(TRAIN) predict -c configs/videoar.yaml -c configs/sample.yaml --data.prompts configs/prompts/digits.jsonl $(ROOT) $(@D) --ckpt_path $(<D)/$(LAST)
	@touch $@

$(RUNS)/7_continued/done: $(RUNS)/4_long_clips/done $(RUNS)/6_samples/done
	$(BIN)/python -m scripts.export_digits $(@D)/given --clips 40
	$(TRAIN) predict -c configs/videoar.yaml -c configs/sample.yaml --data.prompts '["5 up", "5 down", "5 left", "5 right"]' --data.prefix $(@D)/given/0020_5_up.png $(ROOT) $(@D) --ckpt_path $(<D)/$(LAST)
	@touch $@

# Every finished run is kept, so this goes on where it was interrupted. JOBS=2 trains two models at a time.
JOBS ?= 1

ablation: $(RUNS)/2_video_tokenizer/done ## the paper's Table 4 on moving digits, in some hours (docs/ablation.md)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[plots]"
	$(BIN)/python -m experiments.ablation --tokenizer $(RUNS)/2_video_tokenizer/$(LAST) --out runs/ablation --jobs $(JOBS)
