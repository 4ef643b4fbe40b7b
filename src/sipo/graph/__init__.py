"""A run as a graph of stages: which there are, what each sees of the configuration, and when it holds.

Nothing here loads torch.
"""
