"""Files written whole or not at all, mistakes in them named, and a folder that one process has at a time."""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK = ".lock"  # in a folder that is held; has the number of the process


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never half of it."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of `text` in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, **needed: type) -> dict[str, Any]:
    """The JSON object in `path`; a ValueError names a file that is none, or lacks a `needed` field of that type."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); it is cut off, or not of this package") from None
    fields = found if isinstance(found, dict) else {}
    wrong = [name for name, kind in needed.items() if not isinstance(fields.get(name), kind)]
    if wrong or fields is not found:
        raise ValueError(f"{path} has no {', '.join(wrong) or 'fields'}; it was not written by this package")
    return found


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says that nothing more could be written; each library that saves says it in its own way."""
    words = ("No space left", "File too large", "quota exceeded", "PytorchStreamWriter failed", "unexpected pos")
    return any(word in str(error) for word in words)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone; the system lets go of it when the process ends, even killed.

    A PermissionError where nothing can be written, a BlockingIOError if another process has it.
    """
    made, path = not folder.exists(), folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        why = f"cannot write to the output folder {folder} ({error.strerror})"
        raise PermissionError(f"{why}; choose another with --output") from None
    with file:
        file.seek(0)
        left = file.read()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file.fileno()).st_nlink:  # who had it has just ended
                raise BlockingIOError
        except BlockingIOError:
            why = f"another run (process {left}) is writing to {folder}"
            raise BlockingIOError(f"{why}; wait until it ends, or choose another --output") from None
        except OSError as error:
            print(f"{folder} cannot be locked ({error.strerror}); make sure that no second run writes there")
        if left:
            print(f"process {left}, which was writing to {folder}, did not end cleanly; its lock is taken over")
        path.write_text(str(os.getpid()))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if made:
                with contextlib.suppress(OSError):  # unless something was written
                    folder.rmdir()
