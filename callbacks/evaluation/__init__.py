"""Scores of generated videos and the report of a run."""
