"""The graph of a run as a picture in text: Mermaid, which code hosts and documentation sites draw."""

from sipo.graph.build import Graph


def mermaid(graph: Graph) -> str:
    """A box for each stage, and an arrow from each stage to those that are given what it wrote, with what that is."""
    at = {stage.name: f"s{number}" for number, stage in enumerate(graph)}
    lines = ["flowchart LR", *(f'    {at[name]}["{name}"]' for name in at)]
    for stage in graph:
        given: dict[str, list[str]] = {}
        for _, output in stage.outputs():
            files = given.setdefault(output.stage.name, [])
            if output.part.files not in files:
                files.append(output.part.files)
        lines += [f'    {at[name]} -- "{", ".join(files)}" --> {at[stage.name]}' for name, files in given.items()]
    return "\n".join(lines)
