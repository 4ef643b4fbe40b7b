"""The rows that a run begins with."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sipo.data.cleaning import Choice, Ties
from sipo.data.making import ROWS, place_for
from sipo.data.sources.finding import told
from sipo.errors import SipoError
from sipo.settings.section import Fraction, Number, Positive, Section, Seed


class Source(Section):
    """What rows are made from, with the options of `sipo data prepare`; a text is short for its name."""

    name: Annotated[str, Field(min_length=1)]
    """A known data set, a hub id, a file or a folder."""
    format: str | None = None
    """As which format it is read; null recognises it by its columns."""
    objectives: tuple[str, ...] = ()
    """Which objectives, in which order; none takes what the source has."""
    map: dict[str, str] = Field(default={})
    """What the source calls each column that a format needs; other names are objectives."""
    minimize: tuple[str, ...] = ()
    """Objectives whose smaller score is better."""
    drop_ties: Ties | None = None
    """Leave out rows with a tie in `any` objective or in `all`."""
    max_tokens: Positive | None = None
    """Leave out rows that are longer."""
    tokenizer: str | None = None
    """What they are counted with, as `model.path`."""
    seed: Seed = 0
    """Of the splits that the source does not state; not the run's, so that runs of all seeds share their rows."""

    @field_validator("format")
    @classmethod
    def _is_known(cls, format: str | None) -> str | None:
        try:
            told(format)
        except SipoError as problem:
            raise ValueError(str(problem).removeprefix("--format ")) from None
        return format

    @model_validator(mode="after")
    def _can_count(self) -> "Source":
        if self.max_tokens and not self.tokenizer:
            raise ValueError("max_tokens needs a tokenizer to count with; add tokenizer, as model.path")
        return self

    @property
    def choice(self) -> Choice:
        options = {name: getattr(self, name) for name in type(self).model_fields if name not in ("name", "map")}
        return Choice(columns=self.map, **options)


class Data(Section):
    """Preference rows and how they are split; fractions are of the prompts, by a seeded hash."""

    source: Source | None = None
    """What the rows are made from where they are not there yet; a text is short for its name."""
    path: Path = Field(default=None, validate_default=True)
    """Preference rows, JSON lines or Parquet; may be left out where there is a source, and then lies in the cache."""
    validation: Fraction = 0.1
    """Share of the prompts that is held out to choose epochs by; rows with a column `split` keep to it."""
    test: Fraction = 0.1
    """Share of the prompts that is held out to measure on."""
    max_prompt_tokens: Positive = 256
    """A longer prompt is an error."""
    max_response_tokens: Positive = 256
    """Longer responses, given or generated, are cut here and then carry no end token."""
    train_rows: Positive | None = None
    """Train on so many rows, a seeded choice; null takes all of them, or all that conflict_ratio leaves."""
    conflict_ratio: Annotated[Number, Field(ge=0, le=1)] | None = None
    """Share of the training rows whose objectives conflict, exact; an error where the data cannot give it; null leaves
    it as it is."""

    @field_validator("source", mode="before", json_schema_input_type=Source | str | None)
    @classmethod
    def _source_by_its_name(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str | dict | Source):
            raise ValueError("write a data set, hub id, file or folder, or a mapping with its name")
        return {"name": value} if isinstance(value, str) else value

    @field_validator("path", mode="before")
    @classmethod
    def _path_by_the_source(cls, path: Any, info: ValidationInfo) -> Any:
        if path is not None:
            return path
        if "source" not in info.data:
            return Path()  # the source's own fault is told first
        source = info.data["source"]
        if source is None:
            raise ValueError("is missing; add it, or data.source, which rows are made from")
        try:
            return place_for(source.name, source.choice)
        except SipoError as problem:
            raise ValueError(f"no rows can be made of data.source: {problem}") from None

    @model_validator(mode="after")
    def _rows_have_a_folder(self) -> "Data":
        if self.source is not None and (self.path.name != ROWS or Path(self.source.name) in self.path.parents):
            raise ValueError(f"path, with source, is a file {ROWS} in a folder of its own, outside of the source")
        return self

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> "Data":
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must leave rows to train on")
        return self
