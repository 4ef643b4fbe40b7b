"""How a run weighs, decodes, measures, reports and uses the machine."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from sipo.settings.section import Natural, NotNegative, Number, Positive, Section, Shares, Whole


class Weights(Section):
    """Preference weights: the lattice of the simplex with steps of 1 / divisions, or a part of it, or a list."""

    divisions: Positive = 5
    """All weights that are multiples of 1 / divisions."""
    at_most: Positive = 21
    """Of more than so many a well-spread part, the corners first; three objectives with steps of 1/5 have 21."""
    grid: Annotated[tuple[Shares, ...], Field(min_length=1)] | None = None
    """Or an explicit list of mappings from objective to share."""


class Decoding(Section):
    """How every response is drawn; temperature 0 is greedy."""

    temperature: Annotated[Number, Field(ge=0, le=1000)] = 0.0
    """0 is greedy."""
    top_k: Natural = 0
    """Draw from so many of the likeliest tokens; 0 from all."""
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Draw from the likeliest tokens that have this probability together; 1 from all."""

    @field_validator("temperature")
    @classmethod
    def _can_be_divided_by(cls, temperature: float) -> float:
        if 0 < temperature < 1e-4:
            raise ValueError(f"{temperature:g} is too near 0 to divide by; 0 itself is greedy")
        return temperature


class Evaluate(Section):
    prompts: Positive | None = None
    """At most so many held-out prompts; null takes all."""
    per_prompt: Annotated[Whole, Field(gt=0, le=10_000)] = 1
    """Answers a prompt, method and weight; what no weight steers is asked as often, unless decoding is greedy."""
    validation_prompts: Positive = 64
    """At most so many validation prompts are answered by MOD and by soups, where `methods` has both over the newest
    policies, to tell which to propose for use."""
    reference_point: Shares | None = None
    """The corner from which hypervolume is measured; null puts it just below the worst point found."""
    labels: bool = False
    """Also say how often held-out labels agree with each method. Where an objective has no reward, they decide."""
    bootstrap: Annotated[Whole, Field(gt=0, le=100_000)] = 2000
    """Resamples of the prompts."""


class Report(Section):
    cases: Positive = 10_000
    """Held-out prompts, and rows worked on, whose texts the page has, at most; fewer where it would be over 20 MB, or
    unpacked over 50 MB a list."""
    title: str | None = None
    """Of the page; null is the run's name."""


class Ray(Section):
    """The actor pool of `execution.engine: ray`, in Ray's own terms."""

    address: str | None = None
    """Of a cluster, as `ray start --head` prints it; null joins the one that RAY_ADDRESS names or that runs on this
    machine, else starts one here."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What writes in an actor."""
    actors: Positive = 2
    """Each with a copy of the model; one that finds no room waits."""
    num_cpus: Annotated[Number, Field(gt=0)] = 1.0
    """Of an actor; as many threads."""
    num_gpus: Annotated[Number, Field(ge=0)] = 0.0
    """Of an actor. Without any it computes on processors."""


class Execution(Section):
    """How the work is cut up: changes speed and memory, not what is computed (up to rounding)."""

    device: str = "auto"
    """cuda, mps or cpu; auto takes the first that is there."""
    engine: Literal["transformers", "pool", "vllm", "ray"] = "transformers"
    """What writes and scores: this process; a pool of processes; for many prompts, vLLM, which needs `sipo[vllm]`; or,
    on several machines, actors of a Ray cluster, which need `sipo[ray]`. The texts are the same up to rounding."""
    workers: Positive = 2
    """Of the pool: processes, each with a copy of the model."""
    ray: Ray = Ray()
    decode_rows: Positive | Literal["auto"] = "auto"
    """Rows decoded at once; MOD takes one for each policy. auto takes as many as the memory holds beside the model, and
    no more than make the device faster: 64 on a processor, else 256; of vLLM as many as it takes itself."""
    score_tokens: Positive | Literal["auto"] = "auto"
    """Padded tokens in a forward of scoring; auto likewise, at most 4096 on a processor, else 16384."""
    train_tokens: Positive | Literal["auto"] = "auto"
    """Padded tokens in a forward of training, gradients accumulate over several; auto likewise."""
    gradient_checkpointing: bool = False
    """True keeps the input of each layer alone in training, and computes the layer again in the backward: a fraction of
    the memory, about a third more time."""
    train_together: Positive | Literal["auto"] = "auto"
    """Adapters that learn in the same steps, one an objective or a weight, by one forward and one way back; auto takes
    as many as make a step's products large, and fit with their rows. Whole models learn one after the other."""
    checkpoint_seconds: NotNegative = 60.0
    """How often training saves its state."""
    report_to: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = ()
    """Where the numbers of metrics.jsonl go besides, while the run works; TensorBoard's are in the run's folder."""

    @property
    def here(self) -> "Execution":
        """Of what this process computes by itself, whatever the engine is."""
        return self.model_copy(update={"engine": "transformers"})

    @property
    def processes(self) -> int:
        """How many of the engine share a device's memory, if they are all on one."""
        if self.engine == "ray":
            return 1 if self.ray.num_gpus else self.ray.actors
        return self.workers if self.engine == "pool" else 1

    @property
    def engines(self) -> tuple[str, ...]:
        """What writes, and what it stands on."""
        return (self.engine, self.ray.engine) if self.engine == "ray" else (self.engine,)
