"""Benchmarks: what `bert-large bench` measures, on the machine it runs on."""
