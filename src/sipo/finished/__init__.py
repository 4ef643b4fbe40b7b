"""A finished run in use: asked at any weight, by any method, and given away."""
