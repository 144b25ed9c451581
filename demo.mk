# The demo: networkx's own test suite in four shards, recorded, shown, rebuilt and verified. It writes to .demo/.
# The Makefile makes the virtual environment that DEMO_PYTHON stands in.

DEMO_PYTHON ?= .venv/bin/python

.PHONY: demo demo-full

demo: ## record a part of networkx's test suite (about a minute)
	$(DEMO_PYTHON) docs/tutorial/demo.py

demo-full: ## record all of it
	$(DEMO_PYTHON) docs/tutorial/demo.py --full
