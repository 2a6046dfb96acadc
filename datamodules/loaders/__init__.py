"""Data loaders: order of the clips, exact resume, mixing of data sources."""
