"""Checkpoint callbacks: the last checkpoint of a run, written atomically, also on SIGTERM."""
