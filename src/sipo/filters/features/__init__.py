"""What a judge of the filter may see of a response, a file for each kind of feature."""
