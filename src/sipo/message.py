"""What chats are made of, for data, models and people alike."""

from typing import NamedTuple


class Message(NamedTuple):
    """A turn of a chat. `role` is system, user or assistant.

    >>> chat = [sipo.Message("system", "Be brief."), sipo.Message("user", "How do I swim?")]
    >>> model = sipo.open("runs/quickstart").at({"detail": 0.3, "plain": 0.7})
    >>> answer = model.generate(chat, max_new_tokens=8)
    """

    role: str
    content: str
