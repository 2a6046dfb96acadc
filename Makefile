PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo lint format test

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

test: .venv/installed ## all tests that need no accelerator
	$(BIN)/python -m pytest -m "not gpu"

# The demo: every stage is a plain train.py line. A stage that was interrupted goes on from its last checkpoint; a finished one is kept.
RUNS ?= runs/demo
TRAIN := $(BIN)/python train.py
ROOT = --trainer.default_root_dir
LAST := checkpoints/last.ckpt

demo: $(RUNS)/6_samples/done ## train everything on moving digits in about ten minutes, then make videos
	@echo
	@echo "videos         $(RUNS)/6_samples/samples/*.mp4 (and .webp to look at)"
	@echo "contact sheet  $(RUNS)/6_samples/samples/contact_sheet.png"
	@echo "report         $(RUNS)/5_test/report.json (and report.png)"

$(RUNS)/1_image_tokenizer/done: .venv/installed
	$(TRAIN) fit -c configs/tokenizer.yaml -c configs/stage/digits_images.yaml $(ROOT) $(@D) --ckpt_path last
	@touch $@

$(RUNS)/2_video_tokenizer/done: $(RUNS)/1_image_tokenizer/done
	$(TRAIN) fit -c configs/tokenizer.yaml -c configs/stage/digits_clips.yaml --init_from $(<D)/$(LAST) $(ROOT) $(@D) --ckpt_path last
	@touch $@

$(RUNS)/3_short_clips/done: $(RUNS)/2_video_tokenizer/done
	$(TRAIN) fit -c configs/videoar.yaml -c configs/stage/digits_short.yaml --init_from $(<D)/$(LAST) $(ROOT) $(@D) --ckpt_path last
	@touch $@

$(RUNS)/4_long_clips/done: $(RUNS)/3_short_clips/done
	$(TRAIN) fit -c configs/videoar.yaml -c configs/stage/digits_long.yaml --init_from $(<D)/$(LAST) $(ROOT) $(@D) --ckpt_path last
	@touch $@

$(RUNS)/5_test/done: $(RUNS)/4_long_clips/done
	$(TRAIN) test -c configs/videoar.yaml --ckpt_path $(<D)/$(LAST) $(ROOT) $(@D)
	@touch $@

$(RUNS)/6_samples/done: $(RUNS)/4_long_clips/done $(RUNS)/5_test/done
	$(BIN)/python -m datamodules.export_digits $(@D)/given --clips 40
	$(TRAIN) predict -c configs/videoar.yaml -c configs/sample.yaml --data.prompts configs/prompts/digits.jsonl $(ROOT) $(@D) --ckpt_path $(<D)/$(LAST)
	$(TRAIN) predict -c configs/videoar.yaml -c configs/sample.yaml --data.prompts '["3 right", "3 up", "3 left"]' --data.prefix $(@D)/given/0015_3_right.png $(ROOT) $(@D) --ckpt_path $(<D)/$(LAST)
	@touch $@
