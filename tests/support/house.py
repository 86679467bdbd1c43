"""The rules of the house, checked on the source text: who imports whom, who changes files, how large things get.

Each check gives sentences, one for each thing that breaks a rule; none means that all is well.
"""

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("vdsmlite", "rpc", "storage", "client")

MODULE_LINES = 500
FUNCTION_LINES = 80

# Package -> what of the house it may import, besides itself.
_MAY_IMPORT = {
    "vdsmlite": ("rpc", "storage"),
    "rpc": (),
    "storage": (),
    "client": ("rpc.catalogue",),
}
# Package -> what else it must not know of. "Storage knows no RPC, no schema, no HTTP."
_STRANGERS = {
    "storage": {"http", "xmlrpc", "socketserver", "ssl", "socket", "urllib", "defusedxml", "fastjsonschema", "yaml"},
    "rpc": {"subprocess", "yaml"},
    "client": {"subprocess", "yaml", "fastjsonschema"},
}
# Room of the storage floor -> rooms that stand above it, which it must not import; hsm stands above all others.
_ABOVE: dict[str, tuple[str, ...]] = {
    "hsm": (),
    "pools": ("hsm", "volumes"),
    "domains": ("hsm", "pools", "volumes"),
    "volumes": ("hsm", "pools", "domains"),
    "jobs": ("hsm", "pools", "domains", "volumes"),
    "qemu": ("hsm", "pools", "domains", "volumes", "jobs"),
}
# Module -> why it may be longer.
_LONG_MODULES: dict[str, str] = {}

_PROGRAM_RUNNERS = {"storage/qemu/child.py", "storage/qemu/qemuimg.py", "vdsmlite/testserver.py"}
_FORKERS = {"vdsmlite/background.py"}
_FILE_CHANGERS = {"storage/files.py", "storage/filewriter.py"}
# Where a call that looks like a change of files is none, or is not storage's business.
_EXCUSED = {
    ("vdsmlite/background.py", "os.write"): "to a pipe",
    ("vdsmlite/logs.py", "open"): "a log file",
    ("vdsmlite/testserver.py", "open"): "a log file",
    ("vdsmlite/testserver.py", "os.mkdir"): "a directory of a test",
    ("storage/pools/pool.py", "unlink"): "a method of a pool, which asks files",
}

_OS_CHANGES = frozenset(
    re.findall(
        r"\w+",
        """rename renames replace unlink remove rmdir removedirs mkdir makedirs mknod mkfifo link symlink truncate
        ftruncate write writev pwrite pwritev sendfile copy_file_range chmod fchmod lchmod chown fchown lchown utime
        posix_fallocate setxattr removexattr""",
    )
)
_OS_PROGRAMS = ("exec", "spawn", "posix_spawn", "system", "popen")
_PATH_CHANGES = frozenset(
    ("write_text", "write_bytes", "touch", "mkdir", "unlink", "rename", "rmdir", "symlink_to", "hardlink_to", "chmod")
)
_MATCHERS = {"storage/domains/isofiles.py"}  # of names that are shown, never opened
_FORBIDDEN = {"glob": "ids build paths, patterns do not", "fnmatch": "ids build paths, patterns do not"}


@dataclasses.dataclass(frozen=True)
class Source:
    """One module.

    Attributes:
        name: path below the root, with slashes.
        text: its content.
    """

    name: str
    text: str

    @property
    def package(self) -> str:
        """Top-level package it belongs to."""
        return self.name.partition("/")[0]

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    def at(self, node: ast.AST) -> str:
        """Where a node is, for people."""
        return f"{self.name}:{getattr(node, 'lineno', 1)}"


def sources() -> Iterator[Source]:
    """All modules of the house."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield Source(path.relative_to(ROOT).as_posix(), path.read_text())


def imports(source: Source) -> Iterator[tuple[ast.AST, str]]:
    """Full names of all modules (or names in them) that a module imports, wherever it does so."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names)


def check_imports(source: Source) -> Iterator[str]:
    """An arrow of imports goes only downwards."""
    allowed = _MAY_IMPORT[source.package]
    for node, name in imports(source):
        top = name.partition(".")[0]
        if not top:
            yield f"{source.at(node)}: relative import {name}; import modules by their full name"
        elif top in PACKAGES and top != source.package and not any(_within(name, each) for each in allowed):
            yield f"{source.at(node)}: {source.package} must not import {name}"
        elif top == "tests" or top in _STRANGERS.get(source.package, ()):
            yield f"{source.at(node)}: {source.package} must not know of {top}"
        elif top in _FORBIDDEN and not (top == "fnmatch" and source.name in _MATCHERS):
            yield f"{source.at(node)}: {top}: {_FORBIDDEN[top]}"
        elif source.package == "storage" and top == "storage":
            room, other = source.name.split("/")[1], name.split(".")[1] if "." in name else ""
            if other in _ABOVE.get(room, ("hsm",)):
                yield f"{source.at(node)}: {name} stands above {room} on the storage floor"


def check_changes(source: Source) -> Iterator[str]:
    """Only one module changes files."""
    if source.package in ("rpc", "client") or source.name in _FILE_CHANGERS:
        return
    modules = {name.rpartition(".")[2] for _, name in imports(source)}
    for node in _calls(source):
        name = _change(node, modules)
        if name and (source.name, name) not in _EXCUSED:
            yield f"{source.at(node)}: {name} changes files; only {', '.join(_FILE_CHANGERS)} does that"


def check_programs(source: Source) -> Iterator[str]:
    """Only the modules of qemu-img run programs, without a shell."""
    if source.name not in _PROGRAM_RUNNERS:
        for node, name in imports(source):
            if name.partition(".")[0] in ("subprocess", "multiprocessing", "pty"):
                yield f"{source.at(node)}: only {', '.join(sorted(_PROGRAM_RUNNERS))} run programs"
    for node in _calls(source):
        name = _dotted(node.func)
        if name.startswith("os.") and name[3:].startswith(_OS_PROGRAMS):
            yield f"{source.at(node)}: {name} runs a program"
        if name in ("os.fork", "os.forkpty") and source.name not in _FORKERS:
            yield f"{source.at(node)}: a process with threads must not fork"
        if any(word.arg == "shell" for word in node.keywords):
            yield f"{source.at(node)}: no shell"


def check_handlers(source: Source) -> Iterator[str]:
    """No bare except; who catches everything says why, or raises it again."""
    lines = source.text.splitlines()
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield f"{source.at(node)}: bare except"
        elif _dotted(node.type) in ("Exception", "BaseException"):
            near = lines[max(0, node.lineno - 2) : node.lineno + 1]
            passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if not passes_on and not any("#" in line for line in near):
                yield f"{source.at(node)}: except {_dotted(node.type)} without a reason"


def check_sizes(source: Source) -> Iterator[str]:
    """Modules and functions stay readable in one go."""
    lines = len(source.text.splitlines())
    if lines > MODULE_LINES and source.name not in _LONG_MODULES:
        yield f"{source.name}: {lines} lines, more than {MODULE_LINES}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{source.at(node)}: {node.name} has {length} lines, more than {FUNCTION_LINES}"


def unknown_names() -> Iterator[str]:
    """Modules and rooms that the rules name and that are not there any more."""
    modules = {*_LONG_MODULES, *_PROGRAM_RUNNERS, *_FORKERS, *_FILE_CHANGERS, *(name for name, _ in _EXCUSED)}
    yield from (name for name in sorted(modules) if not (ROOT / name).is_file())
    yield from (room for room in _ABOVE if not (ROOT / "storage" / room).is_dir())


CHECKS = (check_imports, check_changes, check_programs, check_handlers, check_sizes)


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _calls(source: Source) -> Iterator[ast.Call]:
    return (node for node in ast.walk(source.tree) if isinstance(node, ast.Call))


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _change(node: ast.Call, modules: set[str]) -> str:
    """Name of a call that changes files, empty when it does not."""
    name = _dotted(node.func)
    owner, _, last = name.rpartition(".")
    if owner == "os":
        return name if last in _OS_CHANGES or (last == "open" and _opens_to_write(node)) else ""
    if owner == "shutil":
        return name if last not in ("which", "disk_usage") else ""
    if last == "open":
        return "open" if _mode(node, 1 if owner in ("", "io") else 0).strip("rbt") else ""
    # A function of another module is checked there; what is left may be a method of a path.
    return last if owner and owner not in modules and last in _PATH_CHANGES else ""


def _opens_to_write(node: ast.Call) -> bool:
    flags = node.args[1] if len(node.args) > 1 else None
    names = {_dotted(part) for part in ast.walk(flags)} if flags is not None else set()
    known = all(name.startswith("os.O_") or name == "?" or name == "os" for name in names)
    return not names or not known or not names.isdisjoint({"os.O_WRONLY", "os.O_RDWR", "os.O_CREAT", "os.O_TRUNC"})


def _mode(node: ast.Call, position: int) -> str:
    """The mode that a call opens with, "+" when it is not plain to see, empty when it is none."""
    given = [word.value for word in node.keywords if word.arg == "mode"] + node.args[position : position + 1]
    if not given:
        return ""
    if isinstance(given[0], ast.Constant):
        return str(given[0].value)
    return "+" if position else ""  # the first argument of a method "open" is often something else
