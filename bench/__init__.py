"""Benchmarks: figures that anyone can repeat, never a pass or fail. `make bench` runs them."""
