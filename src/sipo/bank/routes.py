"""Which of the fast ways a model is computed by: those that give what the plain model gives."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Routes:
    """Found by `sipo.bank.probe`."""

    packs: bool = True
    """Do responses to one prompt share a row?"""
    mixes: bool = True
    """Does a decoding batch hold prompts of different lengths, share what they have in common and drop what is done?"""

    @property
    def said(self) -> list[str]:
        """What is slower than it might be, for people."""
        slower = []
        if not self.packs:
            slower.append("responses in one row would see each other, so each has a row of its own")
        if not self.mixes:
            slower.append("padding would change what it writes, so only prompts of one length are decoded together")
        return slower
