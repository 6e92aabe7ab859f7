"""What the cells of a notebook define, taken without running the notebook."""

import ast
import linecache
from types import SimpleNamespace

import nbformat

from grpo_helpers.profiles import ROOT


def defined_by(node: ast.stmt) -> dict[str, ast.stmt]:
    """name → what defines it, for imports, functions, classes and constants: names in CAPITALS."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name: node}
    if isinstance(node, ast.Import):
        return {(a.asname or a.name).partition(".")[0]: ast.Import([a]) for a in node.names}
    if isinstance(node, ast.ImportFrom):
        return {a.asname or a.name: ast.ImportFrom(node.module, [a], node.level) for a in node.names}
    if isinstance(node, ast.Assign):
        names = {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        return dict.fromkeys(names, node) if all(name.isupper() for name in names) else {}
    return {}


def definitions(notebook: str, *names: str, run: tuple[str, ...] = ()) -> SimpleNamespace:
    """`names` as the cells of `notebook`, a file's name without its ending, define them; LookupError if one is missing.

    Executed are these and the definitions that they use, in the notebook's order, then the cells with the ids `run`.
    """
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    defined: dict[str, ast.stmt] = {}
    for cell in cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                new = defined_by(node)
                defined = {name: old for name, old in defined.items() if name not in new} | new
    if missing := [name for name in names if name not in defined]:
        raise LookupError(f"{notebook} does not define {', '.join(missing)}; it defines {', '.join(sorted(defined))}")
    after = "\n".join(cell.source for cell in cells if cell.id in run)
    used = (part for part in ast.walk(ast.parse(after)) if isinstance(getattr(part, "ctx", None), ast.Load))
    wanted, ahead = set(), [*names, *(part.id for part in used if isinstance(part, ast.Name))]
    while ahead:
        node = defined.get(ahead.pop())
        if node and node not in wanted:
            wanted.add(node)
            ahead += [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    body = [node for node in dict.fromkeys(defined.values()) if node in wanted]
    code, file = ast.unparse(ast.fix_missing_locations(ast.Module(body, []))), f"{notebook}.ipynb: {', '.join(names)}"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)  # for inspect.getsource
    space = {"__name__": notebook}
    exec(compile(code, file, "exec"), space)
    exec(after, space)
    return SimpleNamespace(**(space if run else {name: space[name] for name in names}))
