"""Work and results on disk: journals that survive a crash, tables that are whole or absent, the folder of a run."""
