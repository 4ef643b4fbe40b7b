"""Where preference rows come from: a file for each source, and what finds the one that reads some records."""
