"""Requests for prediction: prompts, VBench's prompts, video files."""
