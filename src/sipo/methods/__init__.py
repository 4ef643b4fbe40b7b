"""The methods: one file each, all alike to whoever evaluates, compares or asks them.

`interface.py` says what a method is, `spec.py` what its file declares.
"""
