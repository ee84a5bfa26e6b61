# Everything works from nothing: .venv is made and filled from hash-pinned files where it is missing.
.DEFAULT_GOAL := help
# All files of the project, also new ones that git does not know yet, each ended by a zero byte.
FILES = git ls-files -z --cached --others --exclude-standard
.PHONY: help demo test lint format docs site recording bench torture lock release clean

help: ## Show the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

demo: .venv/ready ## Run the whole pipeline on this machine, for real
	@ops/demo.sh

test: .venv/ready-dev ## Run all tests in random order, or those of PYTEST_ARGS
	.venv/bin/python -m pytest $(PYTEST_ARGS)

lint: .venv/ready-dev ## Check style, types and shell scripts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(FILES) '*.py' | xargs -0 .venv/bin/mypy
	{ $(FILES) '*.sh'; $(FILES) | xargs -0 grep -lzZE '^#! ?[a-z/]*(env )?(ba)?sh\b'; } | sort -uz | xargs -0 .venv/bin/shellcheck

format: .venv/ready-dev ## Rewrite the code in the project's format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: .venv/ready-dev ## Write anew what the code knows: docs/schema, and the pages of commands, settings, checks and causes
	.venv/bin/python ops/schemas.py
	.venv/bin/python ops/pages.py

site: .venv/ready-dev ## Build docs/ as a site in site/; a warning is an error
	.venv/bin/python -I -m pipectl.engines.local.uv run --quiet --isolated --no-project \
		--with-requirements ops/site.txt zensical build --clean --strict

recording: .venv/ready-dev ## Record docs/images/recording.svg: a new project, up, a run
	.venv/bin/python ops/recording.py

bench: .venv/ready-dev ## Measure speed, as ratios within one run
	.venv/bin/python tests/benchmarks/bench_local.py
	.venv/bin/pipectl up --quiet && .venv/bin/python tests/benchmarks/bench_cli.py
	.venv/bin/python tests/benchmarks/bench_data.py
	.venv/bin/python tests/benchmarks/bench_snapshot.py
	if docker version >/dev/null 2>&1; then .venv/bin/python tests/benchmarks/bench_docker.py; \
	else echo "No Docker engine answers: bench_docker.py is left out"; fi

torture: .venv/ready-dev ## Inject faults into real stacks, those that TORTURE chooses, and count what is lost
	.venv/bin/python tests/torture $(TORTURE)

lock: .venv/ready-dev ## Pin all dependencies anew
	ops/lock.sh

release: .venv/ready-dev ## Build wheel and sdist into dist/ and try both; nothing is uploaded
	rm -rf dist
	.venv/bin/hatchling build --directory dist
	.venv/bin/python -m pytest tests/integration/test_projects_of_the_wheel.py
	.venv/bin/python -m pytest -m slow tests/e2e/test_own_projects.py
	@echo "If CHANGELOG.md and __version__ name the release: git tag, then uv publish dist/*"

clean: ## Remove the virtual environment and caches of tools
	rm -rf .venv site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

# The caller's folders and modules are not ours.
unexport CDPATH PYTHONHOME PYTHONPATH VIRTUAL_ENV

# A .venv that runs another folder's pipectl, as one of an earlier version in a moved clone, or that has lost its
# Python is made anew.
STALE := $(shell .venv/bin/python -I -c 'import pipectl, sys; sys.exit(pipectl.__file__ != sys.argv[1])' \
	"$$(pwd -P)/ops/pipectl/__init__.py" 2>/dev/null || echo stale)
.PHONY: stale

.venv/ready: ops/requirements.txt pyproject.toml ops/bootstrap.sh $(STALE)
	@ops/bootstrap.sh ops/requirements.txt $@

.venv/ready-dev: tests/requirements.txt pyproject.toml ops/bootstrap.sh $(STALE)
	@ops/bootstrap.sh tests/requirements.txt $@
