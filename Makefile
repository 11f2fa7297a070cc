# The whole developer API. `make demo` and `make test` are all a fresh machine needs.
.DEFAULT_GOAL := help
.PHONY: help install dev format lint types test test-slow test-faults test-browser test-label test-zoo demo label bundles bundles-check docs images transcript package notebooks bench clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where the demonstration goes, and what it needs free (MB).
DEMO ?= demo
NEEDS_MB := 4000
# MONAI Label's environment, what `make label` makes, and the weights it serves.
LABEL_VENV ?= .venv-label
LABEL ?= label
LABEL_WEIGHTS ?= monai_passion/weights/brats_mri_segmentation_rfnet_passion/model.safetensors
CHROMIUM ?= chromium
BUNDLE := bundles/brats_mri_segmentation_rfnet_passion

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

# What would end an argument of `call`.
comma := ,

# torch first and exactly: where an index offers a CPU build under that pin, nothing else pulls in CUDA packages.
define environment
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; install Python 3.10 to 3.13, or say which: make $@ PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { echo "make: $$($(PYTHON) --version) is not supported; use Python 3.10 to 3.13: make $@ PYTHON=python3.11"; exit 2; }
	@free=$$(df -Pm . | awk 'NR==2 {print $$4}'); [ "$$free" -ge $(NEEDS_MB) ] || { echo "make: $$free MB free on this disk, $(NEEDS_MB) MB needed; free some space or set VENV=/other/disk/venv"; exit 5; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { echo "make: could not make $(VENV); on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	@echo "installing into $(VENV) (about two minutes, 2 GB) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt) \
	  && $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(1)]' \
	  || { echo "make: pip could not install; is the network (or the package index, see pip's message above) reachable, and is there disk left?"; exit 3; }
endef

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(call environment,phantom$(comma)jit)
	@touch $@

$(VENV)/.dev: setup.cfg pyproject.toml constraints.txt
	$(call environment,dev)
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed  ## make .venv and install what users need

dev: $(VENV)/.dev  ## make .venv and install what developers need

format: dev  ## rewrite the code in the house style
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: dev  ## style and common mistakes
	$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: dev  ## static types
	$(BIN)/mypy

test: dev  ## all fast tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-label: $(LABEL_VENV)/.installed dev  ## MONAI Label's servers, really started
	MONAI_PASSION_LABEL_VENV=$(LABEL_VENV) $(BIN)/python -m pytest -m label tests/monailabel_app

test-zoo: dev  ## the model zoo's checks, for every bundle
	$(BIN)/python -m pytest -m zoo -n 2

test-slow: dev  ## tests that take minutes each
	$(BIN)/python -m pytest -n 2 -m slow

test-faults: dev  ## kills, full disks, damaged files, really caused
	$(BIN)/python -m pytest -m faults

test-browser: dev  ## the page of predict in headless Chromium, where there is one
	$(BIN)/python -m pytest -m browser

bench: dev  ## side-by-side timings, as ratios
	$(BIN)/python -m pytest -m bench -s

docs: dev  ## the documentation site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "open build/site/index.html"

images: install  ## docs/images from phantoms, with Chromium
	$(BIN)/python docs/images.py build/images $(CHROMIUM)

transcript: install  ## docs/results/own_tasks.md, from made-up data
	$(BIN)/python docs/own_tasks.py build/own_tasks

package: dev  ## sdist and wheel, checked, in dist/
	$(BIN)/python -m build --no-isolation --outdir dist . && $(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m pytest -m "slow or not slow" tests/test_package.py tests/test_container.py

notebooks: dev  ## run docs/notebooks on phantoms
	$(BIN)/python -m pytest -m "slow or not slow" tests/test_notebooks.py

bundles: install  ## write bundles/ from configs/
	$(BIN)/monai-passion bundles make

bundles-check: dev  ## are bundles/ what configs/ makes, and do they run?
	$(BIN)/monai-passion bundles check
	$(BIN)/python -m pytest tests/bundles -n 2

# The whole way, on phantoms: a cohort, a training with missing sequences, all combinations scored, one patient segmented.
CASE = $(DEMO)/cohort/BraTS20_Training_002/BraTS20_Training_002
demo: install  ## train, evaluate and segment phantoms with missing sequences (about 5 minutes)
	@echo "== with the weights that come with the package"
	$(BIN)/monai-passion demo --output $(DEMO)/shipped --overwrite
	@echo "== 1/5 a cohort of 28 phantoms, 48 x 48 x 48 voxels"
	$(BIN)/monai-passion phantom brats $(DEMO)/cohort --cases 28 --size 48 --seed 1
	@echo "== 2/5 training on 19 of them; missing rates: flair 0.4, t1c 0.2, t1 0.6, t2 0.8"
	$(BIN)/python -m monai.bundle run training --config_file "['$(BUNDLE)/configs/train.json','configs/smoke.json']" \
	  --dataset_dir $(DEMO)/cohort --ckpt_dir $(DEMO)/run
	@echo "== 3/5 scores of all 15 combinations, on patients the network has not seen"
	$(BIN)/python -m monai.bundle run evaluating --config_file "['$(BUNDLE)/configs/evaluate.json','configs/smoke.json']" \
	  --dataset_dir $(DEMO)/cohort --ckpt_dir $(DEMO)/run --output_dir $(DEMO)/scores --split test
	@echo "== 4/5 tables and figures"
	$(BIN)/monai-passion report $(DEMO)/scores --output $(DEMO)/report --overwrite
	@echo "== 5/5 one of the unseen patients, without T1c"
	$(BIN)/monai-passion predict --bundle $(BUNDLE) --weights $(DEMO)/run/model_last.pt --device cpu --overwrite \
	  --flair $(CASE)_flair.nii.gz --t1 $(CASE)_t1.nii.gz --t2 $(CASE)_t2.nii.gz --output $(DEMO)/patient
	@echo
	@echo "report        $(DEMO)/report/report.html"
	@echo "picture       $(DEMO)/patient/preview.png"
	@echo "segmentation  $(DEMO)/patient/segmentation.nii.gz"
	@echo "Research use only, not a medical device. Phantom scores say nothing about patients."

# MONAI Label lives apart: it needs numpy below 2. Where torchvision does not load beside this torch, a stand-in does.
LABEL_PACKAGES := monailabel==0.8.5 monai==1.6.1 "numpy<2" "pydicom<3" "dicomweb-client<0.60" "pynetdicom<3"
$(LABEL_VENV)/.installed: setup.cfg constraints.txt
	[ -x $(LABEL_VENV)/bin/python ] || $(PYTHON) -m venv $(LABEL_VENV)
	@echo "installing MONAI Label into $(LABEL_VENV) (several minutes, 4 GB) ..."
	$(LABEL_VENV)/bin/pip install --quiet $$(grep '^torch==' constraints.txt)
	$(LABEL_VENV)/bin/pip install --quiet $(LABEL_PACKAGES) $$(grep '^torch==' constraints.txt)
	$(LABEL_VENV)/bin/pip install --quiet . "numpy<2"
	@$(LABEL_VENV)/bin/python -c "import torchvision" 2>/dev/null || { \
	  d=$$($(LABEL_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/torchvision; \
	  rm -rf "$$d"; mkdir "$$d"; echo "from torchvision import utils" > "$$d/__init__.py"; \
	  printf 'def make_grid(*args, **kwargs):\n    raise NotImplementedError\n\n\nsave_image = make_grid\n' > "$$d/utils.py"; }
	@touch $@

$(LABEL)/app: | install
	@[ ! -e $(LABEL) ] || [ -f $(LABEL)/.weights ] || { echo "$(LABEL) holds something else; give another LABEL" >&2; exit 2; }
	rm -rf $(LABEL) && mkdir -p $(LABEL)/studies
	cksum < $(LABEL_WEIGHTS) > $(LABEL)/.weights
	$(BIN)/monai-passion phantom brats $(LABEL)/raw --cases 6 --size 80 --seed 1
	cp $$(find $(LABEL)/raw -name '*.nii.gz' ! -name '*_seg.nii.gz') $(LABEL)/studies
	rm $(LABEL)/studies/*_002_t1.nii.gz $(LABEL)/studies/*_003_t1ce.nii.gz
	cp -r monai_passion/monailabel_app $(LABEL)/unpacked
	$(BIN)/monai-passion bundles export $(BUNDLE) --weights $(LABEL_WEIGHTS) --output $(LABEL)/bundle.zip
	$(BIN)/python -m zipfile -e $(LABEL)/bundle.zip $(LABEL)/unpacked/model
	mv $(LABEL)/unpacked $@

label: $(LABEL_VENV)/.installed $(LABEL)/app  ## MONAI Label with phantoms, for 3D Slicer; Ctrl-C ends it
	@cksum < $(LABEL_WEIGHTS) | cmp -s - $(LABEL)/.weights || { \
	  echo "$(LABEL) was made with other weights than $(LABEL_WEIGHTS); give another LABEL, or remove it" >&2; exit 2; }
	@echo "In 3D Slicer: module MONAI Label, server http://127.0.0.1:8000; see docs/how-to/monai-label.md"
	@echo "Research use only, not a medical device."
	PATH="$(abspath $(LABEL_VENV))/bin:$$PATH" monailabel start_server --app $(LABEL)/app --studies $(LABEL)/studies --host 127.0.0.1

clean:  ## remove the environment and what the demonstration made
	rm -rf $(VENV) $(DEMO) $(LABEL_VENV) $(LABEL)
