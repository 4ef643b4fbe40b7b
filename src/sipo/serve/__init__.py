"""Finished runs behind an endpoint in OpenAI's form: each request at its own weight, by its own method."""
