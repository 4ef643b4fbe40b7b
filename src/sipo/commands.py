"""Commands for people, to be copied into a shell as they stand: all that sipo prints or writes are made here."""

import csv
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from io import StringIO
from pathlib import Path
from shutil import which

from sipo.places import told

QUESTION = "Why is the sky blue?"
"""Asked where the run's own prompts are no good on a command line."""
LONGEST = 120
"""Characters of a prompt on a command line."""
SHORT = 6
"""Characters of a share that is better read as a decimal than as a ratio."""
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""


def command(*words: object) -> str:
    """A command line: words in quotes where a shell would read something else into them, and no path is an option."""
    return told(
        shlex.join(f"./{word}" if isinstance(word, Path) and str(word)[:1] == "-" else str(word) for word in words)
    )


def sipo(*words: object) -> str:
    """A command of sipo, called as it can be called from here. On pages that travel it is `command("sipo", ...)`."""
    return command(*called(Path.cwd()), *words)


@cache
def called(here: Path) -> tuple[str, ...]:
    """The words that call this sipo in the folder `here`: `sipo` where a shell finds it, else the script of this
    environment or the one that was started, else Python with -m.
    """
    beside, started = Path(sys.executable).with_name("sipo"), Path(sys.argv[0])
    scripts = [path.absolute() for path in (beside, started) if path.name == "sipo" and path.is_file()]
    found = which("sipo")
    if found and any(Path(found).samefile(script) for script in scripts):
        return ("sipo",)
    return (_from(here, scripts[0]),) if scripts else (_python(here), "-m", "sipo")


def _python(here: Path) -> str:
    known = (name for name in ("python", "python3") if which(name) == sys.executable)
    return next(known, _from(here, Path(sys.executable)))


def install(*what: str) -> str:
    """How this environment gets packages."""
    return command(_python(Path.cwd()), "-m", "pip", "install", *what)


def install_extra(name: str) -> str:
    """The same for what an extra of sipo names, wherever sipo itself came from."""
    try:
        known = [each.partition(";") for each in requires("sipo") or ()]
    except PackageNotFoundError:
        known = []
    wanted = [needed.strip() for needed, _, when in known if when.strip().replace('"', "'") == f"extra == '{name}'"]
    return install(*wanted or [f"sipo[{name}]"])


def _from(here: Path, path: Path) -> str:
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def ratios(weights: Mapping[str, float]) -> str:
    """Shares as `--weights` reads them back, to the last bit: `helpful=0.3,brief=0.7`, `a=1/3,b=2/3`.

    >>> ratios({"a": 1 / 3, "b": 2 / 3, "c": 0.0})
    'a=1/3,b=2/3,c=0'
    """
    return ",".join(f"{name}={_number(share)}" for name, share in weights.items())


def _number(share: float) -> str:
    decimal, ratio = repr(float(share)).removesuffix(".0"), Fraction(share).limit_denominator(1000)
    return str(ratio) if len(decimal) > SHORT and float(ratio) == share else decimal


def evenly(objectives: Iterable[str]) -> dict[str, float]:
    """The same share for each objective."""
    names = tuple(objectives)
    return dict.fromkeys(names, 1 / len(names))


def generate(run: Path, weights: Mapping[str, float], prompt: str, method: str | None = None) -> tuple[object, ...]:
    """The words that ask; without a `method`, the run's usual one answers."""
    return ("generate", run, *_by(method), "--weights", ratios(weights), "--prompt", prompt)


def export(run: Path, weights: Mapping[str, float], to: object, method: str | None = None) -> tuple[object, ...]:
    """The words that take the model at a weight away; without a `method`, the soup of the newest policies."""
    return ("export", run, *_by(method), "--weights", ratios(weights), "--to", to)


def resume(run: Path) -> tuple[object, ...]:
    """The words that go on with a run, by the configuration in its folder."""
    return ("run", Path(run) / "config.yaml", "--run-dir", run)


def jobs(config: Path, chain: Iterable[tuple[str, str]], names: Sequence[str], *more: str) -> list[list[str]]:
    """The commands that together make a run, in groups: those of one may run at the same time, once all before is done.

    `chain` is a graph's `jobs`, `names` are the run's objectives, `more` are words that each command has.
    """
    groups: list[list[str]] = [[]]
    for kind, stage in chain:
        if kind == "each":
            groups[-1] += [sipo("run", config, *more, "--only", stage, "--objective", name) for name in names]
        else:
            alone = sipo("run", config, *more, *(("--until", stage) if kind == "until" else ()))
            groups += [[alone], []]
    return [group for group in groups if group]


def _by(method: str | None) -> tuple[str, ...]:
    return ("--method", method) if method else ()


def serve(folder: object, base: str | None, rank: int = 0) -> str:
    """How vLLM serves an export: an adapter of a rank over its base, or a whole model (`base` is None).

    Empty for an adapter of a rank that vLLM has no room for.
    """
    if base is None:
        return command("vllm", "serve", folder)
    room = next((each for each in VLLM_RANKS if each >= rank), None)
    name = Path(str(folder)).name
    options = ("--enable-lora", "--max-lora-rank", room, "--lora-modules", f"{name}={folder}")
    return command("vllm", "serve", base, *options) if room else ""


def vllm_soups(run: Path, base: str, rank: int) -> str:
    """How vLLM serves the soups of a run by name over its base; `rank` is the largest. Empty where it is too large."""
    room = next((each for each in VLLM_RANKS if each >= rank), None)
    known = command("env", f"SIPO_VLLM_RUNS={run}", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1")
    return f"{known} {command('vllm', 'serve', base, '--enable-lora', '--max-lora-rank', room)}" if room else ""


def llama_server(base: Path | None, scales: Mapping[Path, float]) -> str:
    """How llama.cpp serves adapters over its base, a GGUF file: at these scales, where a request names no others.

    It cannot read a path with a colon.
    """
    row = StringIO()
    csv.writer(row, lineterminator="").writerow([f"{path}:{scale}" for path, scale in scales.items()])
    return command("llama-server", "--model", base or Path("model.gguf"), "--lora-scaled", row.getvalue())


def llama_scales(scales: Iterable[float]) -> dict[str, list[dict[str, float]]]:
    """What a request to llama.cpp's server has besides, to be at these scales of the adapters in their order.

    >>> llama_scales([0.3, 0.7])
    {'lora': [{'id': 0, 'scale': 0.3}, {'id': 1, 'scale': 0.7}]}
    """
    return {"lora": [{"id": number, "scale": scale} for number, scale in enumerate(scales)]}


def question(prompts: Iterable[str]) -> str:
    """The shortest of a run's prompts, to ask on a command line: its model may know no English, or no other task."""
    fit = (text for text in prompts if text.strip() and text.isprintable() and len(text) <= LONGEST)
    return min(fit, key=lambda text: (len(text), text), default=QUESTION)
