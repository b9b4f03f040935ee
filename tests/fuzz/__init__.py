"""Damaged and hostile inputs by a seed, and what may become of each. `benchmarks/fuzz.py` runs many of them."""
