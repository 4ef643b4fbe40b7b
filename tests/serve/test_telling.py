"""A text in pieces: together they are the whole text, up to the first stop string."""

from hypothesis import example, given
from hypothesis import strategies as st

from sipo.finished.handle import FinishedRun
from sipo.serve.telling import Text


@example(said="baa", stops=["a", "baa"])
@given(st.text("ab c\né", min_size=1, max_size=40), st.lists(st.text("ab c\n", min_size=1, max_size=4), max_size=3))
def test_pieces_are_the_text_before_the_first_stop_string(opened: FinishedRun, said: str, stops: list[str]) -> None:
    codec = opened.task.codec
    tokens = codec.tokenizer(said, add_special_tokens=False)["input_ids"]
    whole = codec.decode(tokens)
    text = Text(codec, stops)
    pieces = [text.more(token) for token in tokens]
    pieces.append(text.rest())
    ends = (end for end in range(1, len(whole) + 1) if whole[:end].endswith(tuple(stops)))
    found = [end - len(stop) for end in [next(ends, 0)] for stop in stops if end and whole[:end].endswith(stop)]
    assert "".join(pieces) == (whole[: min(found)] if found else whole)
    assert text.stopped == bool(found)
    for n in range(len(pieces)):
        assert whole.startswith("".join(pieces[:n])), "what was told stays"
