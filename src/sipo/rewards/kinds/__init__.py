"""The kinds of reward that a configuration names by a mapping, a file for each: its keys, and what scores by them."""
