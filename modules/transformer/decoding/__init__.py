"""Decoding: state, buffers, CUDA graphs, precision."""
