"""A crowd of streams against `sipo serve`: see `benchmarks.load.__main__`."""
