"""sipo: align one language model to several preferences at once, and choose the trade-off afterwards."""
