"""Benchmarks: ours beside its peers, in one run, on real inputs."""
