"""What other programs start or load by name: the command, and the pytest plugin.

`cli`, `ledger` and `projections` are names that a project may have too, and under `python -m pytest` or with PYTHONPATH
the project's are found first. This package's name is ours alone. What is loaded inside other people's processes imports
nothing but this package; what runs in processes of ours puts our packages first before it imports them.
"""
