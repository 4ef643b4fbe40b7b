"""The stages of SIPO, each a function of its inputs and a folder for its tables."""

from sipo.stages.align import align
from sipo.stages.answer import answer_prompts
from sipo.stages.compare import compare
from sipo.stages.filter import filter
from sipo.stages.judge import judge
from sipo.stages.realign import realign
from sipo.stages.refine import refine
from sipo.stages.report import report
from sipo.stages.sample import sample
from sipo.stages.score import score

__all__ = ["align", "answer_prompts", "compare", "filter", "judge", "realign", "refine", "report", "sample", "score"]
