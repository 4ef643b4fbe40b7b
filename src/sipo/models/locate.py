"""Where a model is, from the words that name it: a hub id, a folder, a GGUF file, or `package:NAME`."""

from pathlib import Path

from sipo.errors import SipoError
from sipo.models.gguf import converted, packaged_gguf
from sipo.models.pretrained import Origin
from sipo.settings import Model


def origin_of(model: Model) -> Origin:
    """Raises SipoError where there is no such folder or file."""
    source, local = locate(model.path)
    return Origin(source, local, model.revision, model.trust_remote_code, name=f"model {model.path}")


def locate(path: str) -> tuple[str, bool]:
    """The source for `from_pretrained`, and whether it is local."""
    if path.startswith("package:"):
        return str(converted(packaged_gguf(path.removeprefix("package:")))), True
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
