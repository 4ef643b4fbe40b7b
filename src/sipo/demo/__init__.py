"""Two small policies that come with sipo, so that its knob can be turned at once: `sipo demo`.

`adapters` holds them, with `origin.json`: what they were made from, by which commands, on what.
"""
