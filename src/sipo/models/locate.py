"""Where a model is, from the words that name it: a hub id, a folder, a GGUF file, or `package:NAME`."""

import importlib.util
from pathlib import Path

from sipo.commands import install
from sipo.disk.publishing import check_on_disk
from sipo.errors import SipoError
from sipo.models.gguf import converted
from sipo.models.pretrained import Origin
from sipo.settings import Model


def origin_of(model: Model) -> Origin:
    """Raises SipoError where there is no such folder or file."""
    source, local = locate(model.path)
    return Origin(source, local, model.revision, model.trust_remote_code, name=f"model {model.path}")


def locate(path: str) -> tuple[str, bool]:
    """The source for `from_pretrained`, and whether it is local."""
    if path.startswith("package:"):
        found = packaged(path.removeprefix("package:"))
        return str(found if found.is_dir() else converted(found)), True
    check_on_disk(path)
    local = Path(path).expanduser()
    if local.suffix == ".gguf":
        if not local.is_file():
            raise SipoError(f"model {path}: no such file")
        return str(converted(local.resolve())), True
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise SipoError(f"model {path}: the folder has no config.json, so it holds no model")
        return str(local.resolve()), True
    if local.is_absolute() or path.startswith((".", "~")) or path.count("/") != 1:
        raise SipoError(f"model {path}: no such folder or GGUF file (a hub id looks like `owner/name`)")
    return path, False


def gguf_file(path: str) -> Path | None:
    """The file that these words name, where it is a GGUF file."""
    if path.startswith("package:"):
        found = packaged(path.removeprefix("package:"))
        return found if found.suffix == ".gguf" else None
    return Path(path).expanduser().resolve() if path.endswith(".gguf") else None


def packaged(package: str) -> Path:
    """The one model that an installed Python package carries: a GGUF file, or a folder with its config.json and
    safetensors.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        way = install("--no-deps", package.replace("_", "-"))
        raise SipoError(f"model package:{package}: not installed; `{way}`")
    inside = Path(spec.origin).parent
    folders = [each.parent for each in inside.rglob("config.json") if any(each.parent.glob("*.safetensors"))]
    found = sorted([*inside.rglob("*.gguf"), *folders])
    if len(found) != 1:
        what = "GGUF files and folders with config.json and safetensors"
        raise SipoError(f"model package:{package}: holds {len(found)} {what}, not one; give the path of a model")
    return found[0]
