"""Evaluation of generated videos: protocol, distances, results."""
