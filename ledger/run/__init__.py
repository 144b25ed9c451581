"""The rules of a run: pure functions over frozen values, free of I/O, clocks and randomness."""
