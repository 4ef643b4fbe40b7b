"""A page on which a run's knob is turned: answers at several weights side by side, on the endpoint that `serve` has."""
