"""Records of a run: its configuration, environment and provenance."""
