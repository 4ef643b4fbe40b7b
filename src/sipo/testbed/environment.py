"""What a testbed needs to know: a language, how people answer, review and rewrite in it, and what is good in it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from random import Random
from types import MappingProxyType

from sipo.errors import SipoError
from sipo.rewards.objective import Objective

TASKS = ("respond", "review", "rewrite")


class Environment(ABC):
    """A synthetic language with exact rewards. Subclass it for another language, other rewards, more objectives.

    All texts are words of `vocabulary` with spaces between them. Each method draws from the `rng` it is given and
    from nothing else, so that a seed fixes the model and the rows. `review` and `rewrite` are what the model is
    taught to do, not what the product's refinement does: that asks the model.
    """

    name: str
    """Names its folders: letters, digits, hyphens."""
    vocabulary: tuple[str, ...]
    """Every word that a prompt, response or review may have, none twice; control words are added to it."""
    objectives: tuple[Objective, ...]
    """Two or more, each with its `better` sentence and its `reward`, a pure function of (prompts, responses)."""
    mix: tuple[float, float, float] = (0.36, 0.32, 0.32)
    """Shares of responding, reviewing and rewriting among the examples of supervised fine-tuning."""
    rates: Mapping[str, float] = MappingProxyType({})
    """Learning rates of alignment, of the objectives that the usual 1e-3 drives into nonsense."""
    max_prompt_words: int
    max_response_words: int
    max_review_words: int

    @abstractmethod
    def draw_prompt(self, rng: Random) -> str:
        """A prompt."""

    @abstractmethod
    def respond(self, prompt: str, rng: Random) -> str:
        """A response as the demonstrations have it: varied in every objective. May be empty."""

    @abstractmethod
    def review(self, prompt: str, response: str, rng: Random) -> str:
        """What is wrong with a response, in words. Not empty."""

    @abstractmethod
    def rewrite(self, prompt: str, response: str, review: str, rng: Random) -> str:
        """The response with what the review names mended."""

    def chosen(self, names: Sequence[str] | None = None) -> tuple[Objective, ...]:
        """The objectives with these names, or the first two. Raises SipoError for a name that there is not."""
        known = {objective.name: objective for objective in self.objectives}
        wanted = list(known)[:2] if names is None else names
        for name in wanted:
            if name not in known:
                raise SipoError(f"environment {self.name}: `{name}` is no objective; it has {', '.join(known)}")
        return tuple(known[name] for name in wanted)
