"""Proofs: the slow reference, the release rebuilt, certificates of conversions."""
