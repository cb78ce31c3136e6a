# The commands of this project. Every target sees to the environment itself: `.venv`, in the clone.
#
#   make bench                      Matryoshka diffusion: train, sample, measure, table
#   make bench method=end_to_end    its end-to-end twin; also data=elpv, budget=smoke, args="..."
#   make compare                    all methods at a small matched budget: table and report; spec=FILE
#   make table                      the runs in runs/ side by side; format=latex or csv, out=FILE
#   make report                     the same as a page to look at, report/index.html
#   make search                     the candidates of docs/study.md, three seeds each; resumes
#   make study                      the runs of docs/study.md, over as many hours as it takes; resumes
#   make study-samplers             the pair and growth of its main part under other samplers
#   make study-exposure             the cascade of its main part on real and on generated coarse images
#   make study-table                tables and reports of both from the records in results/
#   make test  test-slow  lint    make speed times the hot paths
#   make docs                       the pages of docs/ and the reference as a site, site/index.html
#   make trials                     every command of README.md and docs/, in about half an hour

PYTHON ?= python3
EXTRAS ?= dev,docs,elpv,huggingface,parquet,sweep,tensorboard,text

method ?= mdm
methods ?= mdm,end_to_end,cascaded,latent,simple_diffusion,chen,rin
runs ?= runs
format ?= markdown

# threads that spin long while they wait are 10 times slower where another process has a core
export GOMP_SPINCOUNT ?= 5000

bin := .venv/bin
installed := .venv/.installed
compared := $(runs)/compare$(addprefix -,$(data))
# runs that stand in the folder itself: those of `make compare`, below it, have a table of their own
finished = $(or $(patsubst %/record.json,%,$(wildcard $(runs)/*/record.json)),$(runs))
# options of benchmarks.run that are passed on when they are set
given = $(foreach option,data budget,$(if $($(option)),$(option)=$($(option))))

.PHONY: install bench compare table report search study study-samplers study-exposure study-table test test-slow trials speed lint docs
.DELETE_ON_ERROR:

install: $(installed)

$(installed): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hierdiff needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(bin)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

bench: $(installed)
	$(bin)/python -m benchmarks.run method=$(method) $(given) $(args)

# exit code 1 of a sweep: a method failed, which is a row; others, as of Ctrl-C, end it
compare: $(installed)
	$(bin)/python -m benchmarks.run -m budget=compare method=$(methods) $(if $(data),data=$(data)) \
		hydra.sweep.dir=$(compared) 'folder=$(compared)/$${label}' $(args) || [ $$? -eq 1 ]
	$(bin)/python -m benchmarks.cost $(compared)
	$(bin)/python -m benchmarks.tables $(compared) --format $(format) $(if $(spec),--spec $(spec)) \
		$(if $(out),-o $(out))
	$(bin)/python -m benchmarks.report $(compared) -o report

table: $(installed)
	$(bin)/python -m benchmarks.tables $(finished) --format $(format) $(if $(spec),--spec $(spec)) \
		$(if $(out),-o $(out)) $(args)

report: $(installed)
	$(bin)/python -m benchmarks.report $(finished) -o $(or $(out),report) $(args)

# $(call ship,FOLDER): the records of runs/FOLDER into results/
ship = (cd runs && find $(1) -name record.json -exec cp --parents {} ../results ';')

# rows of the study, then their options; all are of the search below. $$place is that of the part:
# the autoencoder that is given is that of the first training of `latent`
define rows
end_to_end method=end_to_end
mdm method=mdm
mdm-growth method=mdm method.growth=[0.15]
latent method=latent
latent-given method=latent method.codec.checkpoint=runs/$$place/latent-s0/weights.safetensors
mdm_control method=mdm_control
cascaded method=cascaded method.split=[0.15,0.85]
mdm_3 method=mdm_3
simple_diffusion method=simple_diffusion
endef
export rows
# data:side:FLOPs:seeds of each part of the study; FLOPs grow with the pixels
parts ?= critters:32:5e12:0,1,2 critters:32:4e13:0,1,2 elpv:32:4e13:0 critters:64:8e13:0

study: $(installed)
	$(bin)/python -m hierdiff.metrics.make_squeezenet
	mkdir -p results
	for part in $(parts); do \
		set -- $$(echo $$part | tr : ' '); place=study/$$1-$$2px-$$3; \
		for seed in $$(echo $$4 | tr , ' '); do echo "$$rows" | while read row options; do \
			$(bin)/python -m benchmarks.run experiment=study data=$$1 data.resolution=$$2 \
				match.flops=$$3 label=$$row seed=$$seed $$(eval echo "$$options") \
				folder=runs/$$place/$$row-s$$seed $(args) </dev/null || [ $$? -eq 1 ] || exit; \
		done || exit; done || exit; \
		$(call ship,$$place); \
	done

# other samplers of the weights that the main part trained
define samplers
ddim1-50 sampler.rule={name:ddim,eta:1}
dpmpp-50 sampler.rule={name:dpmpp_2m}
endef
export samplers
main_part = study/critters-32px-4e13

study-samplers: $(installed)
	for seed in $(seeds); do for row in end_to_end mdm mdm-growth; do echo "$$samplers" | while read tag rule; do \
		$(bin)/python -m benchmarks.run experiment=study method=published data=critters data.resolution=32 \
			match.flops=null label=$$row-$$tag seed=$$seed $$rule sampler.grid={name:uniform} sampler.steps=50 \
			checkpoint=runs/$(main_part)/$$row-s$$seed/weights.safetensors \
			folder=runs/$(main_part)-samplers/$$row-$$tag-s$$seed $(args) </dev/null || exit; \
	done || exit; done || exit; done
	$(call ship,$(main_part)-samplers)

# rows of the search, then their options: the pair's learning rates, what may move mdm towards its
# twin, and shares of the cascade's stages
define candidates
end_to_end method=end_to_end
mdm method=mdm
mdm-reference method=mdm method.reference=null
mdm-weights21 method=mdm method.objective.level_weights=[2,1]
mdm-weights11 method=mdm method.objective.level_weights=null
mdm-deep method=mdm denoiser.multiples=[1,2] denoiser.inner.width=64 denoiser.inner.multiples=[1,1.25] denoiser.inner.heads=4 trainer.clip=2
mdm-growth method=mdm method.growth=[0.15]
mdm_3 method=mdm_3
mdm_control method=mdm_control
end_to_end-reference method=end_to_end method.reference=23
end_to_end-lr1e-3 method=end_to_end trainer.lr=1e-3
mdm-lr1e-3 method=mdm trainer.lr=1e-3
end_to_end-lr4e-3 method=end_to_end trainer.lr=4e-3
mdm-lr4e-3 method=mdm trainer.lr=4e-3
cascaded method=cascaded
cascaded-split3 method=cascaded method.split=[0.3,0.7]
cascaded-split15 method=cascaded method.split=[0.15,0.85]
cascaded-split8 method=cascaded method.split=[0.8,0.2]
endef
export candidates
seeds ?= 0 1 2

search: $(installed)
	$(bin)/python -m hierdiff.metrics.make_squeezenet
	mkdir -p results
	for seed in $(seeds); do echo "$$candidates" | while read row options; do \
		$(bin)/python -m benchmarks.run experiment=search data=critters label=$$row seed=$$seed $$options \
			folder=runs/search/$$row-s$$seed $(args) </dev/null || exit; \
	done || exit; done
	$(call ship,search)

study-table: $(installed)
	for place in $(addprefix results/,search recipes recipes-sampled methods sdxl clips) $(wildcard results/study/*); do \
		echo; echo "$${place#results/}"; echo; \
		$(bin)/python -m benchmarks.tables $$place --format $(format) $(args) || exit; \
		case $$place in results/study/*-exposure | results/study/*-samplers) ;; results/study/*) \
			$(bin)/python -m benchmarks.tables $$place --format $(format) --spec examples/study.yaml || exit;; esac; \
		$(bin)/python -m benchmarks.report $$place -o report/$${place#results/} || exit; done

# two processes of one thread each
test test-slow: export OMP_NUM_THREADS ?= 1
# compiled once: both processes, and every command that a test starts, import the same
test test-slow: export PYTHONDONTWRITEBYTECODE :=
workers ?= 2

test: $(installed)
	$(bin)/python -m pytest -n $(workers) --dist loadfile $(args)

# in the order of tests/conftest.py, since CI ends them with its time;
# torch.compile does not see through the shape checks of tests on every torch version
test-slow: $(installed)
	$(bin)/python -m pytest -n $(workers) --dist loadscope --no-loadscope-reorder -m slow -k 'not compile' $(args)
	$(bin)/python -m pytest -n $(workers) --dist load -m slow -k compile --jaxtyping-packages= $(args)

# one after another: a command uses what another left
trials: $(installed)
	$(bin)/python -m pytest -m trial $(args)

speed: $(installed)
	$(bin)/python -m pytest tests/test_speed.py --benchmark-enable --benchmark-only --jaxtyping-packages= $(args)

docs: export NO_MKDOCS_2_WARNING ?= 1
docs: $(installed)
	$(bin)/mkdocs build --strict --quiet

lint: $(installed)
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
