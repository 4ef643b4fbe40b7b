"""A run: what it is of, and the pipeline that brings it about."""
