"""Attention: masks, kernels, key/value cache."""
