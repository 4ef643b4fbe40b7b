"""The command line: thin verbs over the Python API, which load what is heavy when they are called."""
