"""Benchmarks, and the records that they left; see ``benchmarks/README.md``."""
