"""A run as a graph: stages, what each may see of the configuration, what it is made from, and when it holds.

Nothing here loads torch. `stage` and `view` stand below the methods, which declare stages of their own; `build` above.
"""
