"""The verbs. Each imports what it needs when it is called, so that `sipo --help` does not wait for torch."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sipo.cli.arguments import Json, parse_pairs, parse_rates, parse_weights
from sipo.cli.data import data
from sipo.cli.disk import writing
from sipo.cli.play import play
from sipo.cli.reward import reward
from sipo.cli.serve import serve
from sipo.commands import jobs, sipo
from sipo.errors import SipoError
from sipo.hush import hush
from sipo.places import path_of
from sipo.progress import Progress, answering, say, say_json

app = typer.Typer(
    help="Align one language model to several preferences at once, and choose the trade-off afterwards.",
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data, name="data")
app.add_typer(reward, name="reward")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.")]
MAXIMISE, MINIMISE = ("--maximise", "--maximize"), ("--minimise", "--minimize")
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", parser=path_of, help="The folder of a run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key: align.lr=1e-4. May be repeated."),
]
JOBS = "# Between two empty lines: what may run at the same time, once all above is done."
LOADING = "loading torch and transformers"
METHODS = "sipo, mod, soups, lw, base, policy:NAME, ...  [default: sipo, else mod]"
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.  [default: the run's]")]
TopK = Annotated[int | None, typer.Option(help="0 is off.  [default: the run's]")]
TopP = Annotated[float | None, typer.Option(help="1 is off.  [default: the run's]")]
MaxTokens = Annotated[int | None, typer.Option(help="[default: the run's]")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from sipo import __version__

        say(f"sipo {__version__}")
        raise typer.Exit


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("run.yaml"),
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="Rows to take the objectives from.")] = None,
    as_json: Json = False,
) -> None:
    """Write a short commented run.yaml to start from."""
    from sipo.cli.init import write_config

    with answering(as_json) as told, writing(path):
        write_config(path, data)
        told |= {"file": path, "next": sipo("check", path)}
        say(f"{path}: written; `{told['next']}` is next")


@app.command()
def schema() -> None:
    """Print the JSON schema of configurations. Editors complete keys by it."""
    from sipo.config.schema import as_text

    print(as_text(), end="")


@app.command()
def check(
    config: ConfigFile,
    overrides: Overrides = None,
    gpu: Annotated[float | None, typer.Option(metavar="GIB", help="Say which stages fit a device's memory.")] = None,
    tokens_per_second: Annotated[
        str | None,
        typer.Option(metavar="N", help="Say how long stages take: N, or reading=N,decoding=N,scoring=N,training=N."),
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Say how long stages take on this machine.")] = False,
    graph: Annotated[bool, typer.Option("--graph", help="Only draw the stages, as Mermaid text.")] = False,
    as_jobs: Annotated[bool, typer.Option("--jobs", help="Only print the commands that make it job by job.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a run would do, and what would stop it. Looks at configuration, data and model; trains nothing."""
    from sipo.config.file import load_config

    settings = load_config(config, overrides)
    laid_over = [word for override in overrides or () for word in ("--set", override)]
    if graph or as_jobs:
        from sipo.graph.build import Graph, mermaid

        if graph + as_jobs + as_json > 1:
            raise SipoError("--graph, --jobs and --json: give one")
        stages = Graph(settings)
        if graph:
            return say(mermaid(stages))
        groups = jobs(config, stages.jobs(), settings.names, *laid_over)
        return say("\n\n".join([JOBS, *("\n".join(group) for group in groups)]))
    progress = Progress(quiet=as_json, steps=True)
    progress.begin(LOADING)
    hush()
    from sipo.check import check

    found = check(settings, progress, gpu=gpu, tokens_per_second=parse_rates(tokens_per_second), measure=measure)
    if as_json:
        following = "check" if found.absent.rows else "run"
        return say_json({**found.as_json(), "next": sipo(following, config, *laid_over)})
    if found.absent.rows:
        say(f"what is here can be read; `{sipo('check', config, *laid_over)}` again once the rows are there")
    else:
        what = "nothing stops it" if found.remarks else f"{'what is here' if found.absent else 'all'} is well"
        say(f"\n{what}; `{sipo('run', config, *laid_over)}` starts it")


@app.command()
def run(
    config: ConfigFile,
    run_dir: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the run goes.")] = None,
    overrides: Overrides = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Make this stage anew, and all that is made from it.")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="STAGE", help="Make this stage alone, of what is there.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --only, this objective's policy alone. Others may be made meanwhile."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Make no stage after this one.")] = None,
    as_json: Json = False,
) -> None:
    """Make all stages of a run that are not there yet. Killed, the same command goes on where it was.

    `sipo check --graph` draws the stages.
    """
    with answering(as_json) as told:
        told |= _run(config, run_dir, overrides, start=start, only=only, objective=objective, until=until)


@app.command("testbed")
def try_it(
    environment: Annotated[str, typer.Option(metavar="NAME", help="H, G, F, or module:NAME of your own.")] = "H",
    seed: Annotated[int, typer.Option(min=0)] = 200,
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where everything goes.")] = Path("runs/testbed"),
    only_prepare: Annotated[bool, typer.Option("--only-prepare", help="Write model, rows and run.yaml.")] = False,
    as_json: Json = False,
) -> None:
    """Run all of SIPO in a synthetic language, in minutes. Its rewards are exact, and one core is enough."""
    hush()
    from sipo.cli.testbed import make_testbed

    with answering(as_json) as told:
        with writing(to):
            config = make_testbed(environment, seed, to)
        told |= {"file": config, "next": sipo("run", config)}
        say(f"{config}: ready; `{told['next']}` runs it")
        if not only_prepare:
            told |= _run(config)


@app.command()
def demo(
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Ask this instead of three questions. May be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer questions at five weights with two small policies. They come with sipo; nothing is trained."""
    hush()
    from sipo.cli.demo import PROMPTS, show_demo

    with answering(as_json) as told:
        told |= show_demo(prompt or PROMPTS)


@app.command()
def status(
    run: RunFolder,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew while a process works on it.")] = False,
    as_json: Json = False,
) -> None:
    """Tell how far a run has come."""
    from sipo.cli import status

    if watch and as_json:
        raise SipoError("--watch and --json: give one")
    status.watch(run) if watch else status.show_status(run, as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Tell what this machine has: versions, device, memory, engines."""
    from sipo.cli.doctor import show_doctor

    show_doctor(as_json=as_json)


@app.command()
def generate(
    run: RunFolder,
    prompt: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="What to answer. May be repeated.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help=".txt, a prompt a line; or records with a `prompt`; - is stdin.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(metavar="A=0.3,B=0.7", help="A share for each objective. May be repeated.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help=f"{METHODS} May be repeated.")] = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    max_tokens: MaxTokens = None,
    seed: int = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each answer.")] = False,
) -> None:
    """Answer prompts at any preference weights, with a finished run."""
    from sipo.cli.generate import answer, models_of, prompts_of

    chats, shares = prompts_of(prompt or [], prompts, sys.stdin), [parse_weights(each) for each in weights or []]
    hush()
    from sipo.finished.handle import How, open

    opened = open(run)
    how = How(temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=max_tokens, seed=seed)
    answer(opened, chats, models_of(opened, method or [], shares), how, as_json=as_json)


@app.command()
def chat(
    run: RunFolder,
    weights: Annotated[
        str | None, typer.Option(metavar="A=0.3,B=0.7", help="To begin with.  [default: even shares]")
    ] = None,
    method: Annotated[str | None, typer.Option(help=METHODS)] = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    max_tokens: MaxTokens = None,
    seed: int = 0,
) -> None:
    """Talk with a finished run. /weights helpful=0.3 turns the knob on the way. Lines may be piped in."""
    hush()
    from sipo.cli.chat import Conversation, converse
    from sipo.finished.handle import How, open

    how = How(temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=max_tokens, seed=seed)
    converse(Conversation(open(run), weights, method, how), sys.stdin)


app.command()(serve)
app.command()(play)


@app.command()
def choose(
    run: RunFolder,
    at_least: Annotated[
        list[str] | None, typer.Option(metavar="A=0.8", help="No less than this, where larger is better.")
    ] = None,
    at_most: Annotated[
        list[str] | None, typer.Option(metavar="A=20", help="No more than this, where smaller is better.")
    ] = None,
    maximise: Annotated[str | None, typer.Option(*MAXIMISE, metavar="NAME", help="Largest, within the bounds.")] = None,
    minimise: Annotated[
        str | None, typer.Option(*MINIMISE, metavar="NAME", help="Smallest, within the bounds.")
    ] = None,
    knee: Annotated[bool, typer.Option("--knee", help="Where a step to either side costs most.")] = False,
    equal_gain: Annotated[bool, typer.Option("--equal-gain", help="Where the least gain over base is most.")] = False,
    method: Annotated[list[str] | None, typer.Option(help="Only of these.  [default: all that weights steer]")] = None,
    as_json: Json = False,
) -> None:
    """Choose a weight of a finished run by what is wanted of it. Says what it costs.

    --at-least, --at-most and --method may be repeated.
    """
    from sipo.cli.choose import choose, wish_of
    from sipo.runs.status import read_run

    best = [("--maximise", maximise), ("--minimise", minimise)]
    best += [("--knee", "knee" if knee else None), ("--equal-gain", "equal gain" if equal_gain else None)]
    bounds = (parse_pairs("--at-least", at_least or []), parse_pairs("--at-most", at_most or []))
    choose(run, wish_of(read_run(run), *bounds, best), method or (), as_json=as_json)


@app.command()
def compare(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...|FILE...", parser=path_of, help="Runs; or JSON lines with prompt and rewards."),
    ],
    minimise: Annotated[
        list[str] | None,
        typer.Option(*MINIMISE, metavar="NAME", help="Of files: smaller is better. May be repeated."),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text, markdown, latex, csv or json.")] = "text",
    as_json: Json = False,
) -> None:
    """Compare methods over prompts and seeds. Says what is beyond noise, and what could have been seen."""
    from sipo.cli.compare import compare

    compare(places, minimise or [], "json" if as_json else form)


@app.command()
def export(
    run: RunFolder,
    weights: Annotated[
        str | None, typer.Option(metavar="A=0.3,B=0.7", help="A share for each objective; none for policy:NAME, base.")
    ] = None,
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="A new folder.")] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Write the whole model, with the update added.")] = False,
    method: Annotated[
        str | None, typer.Option(help="soups, lw, policy:NAME, ...  [default: the soup of the newest policies]")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="ID", help="The base model as others load it.  [default: as the run did]")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, metavar="R", help="Cut the adapter to it, and say the loss.  [default: exact]")
    ] = None,
    distil: Annotated[
        bool, typer.Option("--distil", help="Train one adapter on the answers of mod, sipo or another mixture.")
    ] = False,
    to_grpo: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the rewards for TRL's GRPOTrainer there instead.")
    ] = None,
    gguf_lora: Annotated[
        bool, typer.Option("--gguf-lora", help="Write each policy for llama.cpp, which adds them up at any weight.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the model at a weight as a PEFT adapter, or merged. Without --method it is the soup of the policies.

    With --distil, killed, the same command goes on where it was.
    """
    shares = None if weights is None else parse_weights(weights)
    place = to or to_grpo
    if place is None or (to and to_grpo):
        raise SipoError("--to FOLDER writes the model, --to-grpo FOLDER its rewards; give one of them")
    if to_grpo and (merged or method or base or rank or distil):
        raise SipoError("--to-grpo writes rewards, and no model: leave the options of models out")
    if distil and rank:
        raise SipoError("--distil trains an adapter of the run's own rank, lora.r: leave --rank out")
    if gguf_lora and (merged or base or rank or to_grpo or distil):
        raise SipoError(
            "--gguf-lora writes the policies as they are: leave other kinds of export, --base and --rank out"
        )
    hush()
    from sipo.cli.export import asked, write, write_distilled, write_for_llama_cpp, write_rewards
    from sipo.cli.generate import missing_weights
    from sipo.finished.handle import open
    from sipo.methods.registry import usual, usual_soup
    from sipo.runs.status import read_run

    with answering(as_json) as told, writing(place):
        if shares is None and (to_grpo or distil):
            raise missing_weights(read_run(run).names)
        if to_grpo and shares is not None:
            told |= write_rewards(run, shares, to_grpo)
            return
        finished = open(run)
        methods = finished.config.methods
        if distil and shares is not None:
            told |= write_distilled(finished, shares, method or usual(methods), place, merged=merged, base=base)
            return
        model = asked(finished, method or usual_soup(methods), shares)
        if gguf_lora:
            told |= write_for_llama_cpp(model, place)
            return
        told |= write(model, place, merged=merged, base=base, rank=rank)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `sipo export` wrote.")],
    to: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Where it goes on the Hugging Face hub.")],
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it.  [default: private]")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and sizes, and send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Upload an exported folder to the Hugging Face hub. No other command sends anything there."""
    from sipo.cli.push import push

    with answering(as_json) as told, writing(folder):
        told |= push(folder, to, public=public, dry_run=dry_run)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="conflicts, methods, ablation, design, soups, nonconflict, ...")],
    on: Annotated[
        str, typer.Option(metavar="GROUND", help="testbed, testbed:G, testbed:H-untaught, or a run's YAML file.")
    ] = "testbed",
    seeds: Annotated[str, typer.Option(metavar="N|A,B", help="How many seeds, or which.")] = "5",
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="For the runs and results.")] = Path("runs/studies"),
    jobs: Annotated[int, typer.Option(min=1, help="Seeds at the same time, each in a process.")] = 1,
    arms: Annotated[str | None, typer.Option(metavar="A,B", help="These arms alone, such as base,mod,sipo.")] = None,
    as_json: Json = False,
) -> None:
    """Run one of the paper's experiments over several seeds. Ends in a table, a picture and a verdict.

    Killed, the same command goes on where it was.
    """
    hush()
    from sipo.cli.study import conduct

    with answering(as_json) as told, writing(to):
        told |= conduct(name, on, seeds, to, jobs, arms)


def _run(
    config: Path,
    run_dir: Path | None = None,
    overrides: Sequence[str] | None = None,
    **stages: Any,
) -> dict[str, Any]:
    """The status of the run once it is made (`sipo.run`)."""
    from sipo.config.file import config_file, load_config
    from sipo.runs.status import check_config

    config = config_file(config)
    check_config(config)
    extra = [] if run_dir is None else [f"run_dir={json.dumps(str(run_dir))}"]
    settings = load_config(config, [*(overrides or []), *extra])
    Progress(steps=True).begin(LOADING)
    hush()
    from sipo.cli.status import status_of
    from sipo.runs.pipeline import run

    with writing(settings.run_dir):
        return status_of(run(settings, **stages))
