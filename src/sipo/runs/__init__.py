"""A run: its folder, its plan, and the pipeline that brings it about."""
