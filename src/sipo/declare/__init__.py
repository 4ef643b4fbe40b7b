"""What a stage declares, and so a plug-in that brings some: its parts, what it is made from, its work and its memory.

Only `memory` loads torch.
"""
