"""Rewards by a language model as judge, behind an endpoint of OpenAI's protocol."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from typing import Any

from sipo.errors import SipoError
from sipo.message import Message
from sipo.plain import opening
from sipo.rewards.endpoint import Endpoint, Pace
from sipo.rewards.forms import form_of
from sipo.rewards.interface import Item, Refused, Scored, named
from sipo.rewards.kinds.judge import Judge
from sipo.rewards.kinds.spec import Measure
from sipo.rewards.reply import PassingError, RefusalError

TRIES = 2
"""How often a trial is made again: one connection that breaks off says nothing of a judge."""
TRIAL = Item((Message("user", "Name a colour."),), "Blue.", "Red.")
"""Nobody's text, and nothing to refuse."""
REASKED = 2
"""How often an answer that cannot be read is asked for again."""
QUOTED = 2000
"""Characters of it that are shown to the judge then."""
READ = 200_000
"""Characters of an answer that are looked through, from its end."""
REASONING = re.compile(
    r"<(think|thinking|thought|reasoning)>.*?(</\1>|\Z)|\A((?!<think).)*</think>", re.DOTALL | re.IGNORECASE
)
"""What a judge thinks before it answers; its beginning may be part of the prompt, its end beyond the last token."""
DECLINES = re.compile(
    r"\W*(i am |i['\u2019]?m )?(very )?(sorry|not able|unable|not comfortable)\b|\W*(i apologi[sz]e|as an ai)\b|"
    r"\W*i (can ?not|can['\u2019]t|won['\u2019]t|will not)\b",
    re.IGNORECASE,
)
"""How models begin when they decline in words."""


class JudgeScorer:
    """One request an item, or two where responses are compared, for the numbers of all objectives that name the judge.

    `criteria` maps the objectives to what a better response is.
    """

    def __init__(self, settings: Judge, criteria: Mapping[str, str]) -> None:
        self.name, self.settings, self.criteria = str(settings), settings, dict(criteria)
        self._endpoint = Endpoint(settings)
        about = settings.model_dump(include={"judge", "model", "lowest", "highest", "options", "json_schema"})
        self.form = form_of(settings, self.criteria)
        content = json.dumps([about, self.criteria, self.form.instruction], sort_keys=True)
        self.identity = hashlib.sha256(content.encode()).hexdigest()

    def check(self) -> None:
        """Looks at the endpoint, and has it judge a harmless item once: a model's name, an option or a form that does
        not work is found here. One that is busy is taken on trust.
        """
        from anyio.from_thread import start_blocking_portal

        once = self.settings.model_copy(update={"retries": 0, "on_refusal": "skip"})
        with start_blocking_portal() as portal:
            portal.call(self._endpoint.look)
            portal.call(JudgeScorer(once, self.criteria)._try, min(TRIES, self.settings.retries))

    async def _try(self, more: int) -> None:
        """With so many more tries where it answers nothing."""
        for left in reversed(range(more + 1)):
            try:
                async with self._endpoint.opened() as client:
                    scored = await self._ask(client, Pace(None), TRIAL)
                break
            except SipoError as error:
                if isinstance(error, PassingError):
                    if error.busy:
                        return
                    if left:
                        continue
                raise SipoError(f"{named(TRIAL)}: {error}") from None
        if isinstance(scored, Refused):
            raise SipoError(f"refuses even {named(TRIAL)}: {scored.reason}; see the account, the model and options")

    def score(self, items: Sequence[Item]) -> Iterator[tuple[int, Scored]]:
        from anyio.from_thread import start_blocking_portal

        pace = Pace(self.settings.requests_per_minute)
        waiting: Iterator[tuple[int, Item]] = enumerate(items)
        running: dict[Future[Scored], int] = {}
        failure: SipoError | None = None
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(self._endpoint.opened()) as client,
        ):
            while True:
                for index, item in islice(waiting, self.settings.concurrency - len(running)):
                    running[portal.start_task_soon(self._ask, client, pace, item)] = index
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index = running.pop(future)
                    try:
                        scored = future.result()
                    except SipoError as error:  # no more are begun, those under way still count
                        failure = failure or SipoError(f"{named(items[index])}: {error}; what was scored is kept")
                        waiting = iter(())
                    else:
                        yield index, scored
        if failure:
            raise failure

    async def _ask(self, client: Any, pace: Pace, item: Item) -> Scored:
        answers = []
        for question in self.form.questions(item):
            answer = await self._answered(client, pace, question)
            if isinstance(answer, Refused):
                return answer
            answers.append(answer)
        return self.form.numbers(answers)

    async def _answered(self, client: Any, pace: Pace, question: str) -> Scored:
        asked = [{"role": "system", "content": self.form.instruction}, {"role": "user", "content": question}]
        messages = asked
        for _ in range(1 + REASKED):
            try:
                answer = await self._endpoint.ask(client, pace, messages, **self._enforced())
            except RefusalError as refusal:
                return self._refused(str(refusal))
            text = without_reasoning(answer.text)
            try:
                return self.form.read(text)
            except ValueError as error:
                problem = f"{error}{answer.flaw and f', for {answer.flaw}'}"
            if answer.refusal:
                return self._refused(answer.refusal)
            again = f"That cannot be used: {problem}. Answer again, with the JSON object alone."
            quoted = [{"role": "assistant", "content": text[:QUOTED]}, {"role": "user", "content": again}]
            messages = [*asked, *quoted] if text.strip() else asked  # some servers refuse a turn without words
        if DECLINES.match(text):
            return self._refused(opening(text))
        raise SipoError(
            f"answered {opening(text)} where {problem}, {1 + REASKED} times; take a model that keeps to the form"
        )

    def _refused(self, reason: str) -> Refused:
        if self.settings.on_refusal == "stop":
            raise SipoError(f"refused ({reason}); set on_refusal: skip to go on without its score")
        return Refused(reason)

    def _enforced(self) -> dict[str, Any]:
        if not self.settings.json_schema:
            return {}
        schema = {
            "type": "object",
            "properties": dict.fromkeys(self.criteria, self.form.form),
            "required": list(self.criteria),
            "additionalProperties": False,
        }
        form = {"name": "scores", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": form}}


def without_reasoning(answer: str) -> str:
    return REASONING.sub("", answer[-READ:])


def measured(
    settings: Judge, criteria: Mapping[str, str], _: object, __: object
) -> tuple[JudgeScorer, dict[str, Measure]]:
    """A column for each objective, and where responses are compared one more for what was read first."""
    count = len(criteria) if settings.pairwise else None
    places = {name: None if count is None else count + column for column, name in enumerate(criteria)}
    measures = {name: Measure(column, first=places[name]) for column, name in enumerate(criteria)}
    return JudgeScorer(settings, criteria), measures
