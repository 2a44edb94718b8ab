"""Benchmarks: `make bench`. Ratios measured in one run, ours against a peer, interleaved."""
