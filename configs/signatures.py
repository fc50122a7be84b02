"""What is registered, and what classes accept, read from their sources: nothing is imported.

The import of torch, Lightning and what is built on them takes seconds, for which nobody waits who
asks for help or misspells an option. Decorators in the sources say what is registered, and
constructors what a class accepts. What has been imported is not read but asked itself: a module of
the user's may have registered more.
"""

from __future__ import annotations

import ast
import builtins
import copy
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from relprop.registry import Registry

READ = ("lightning", "lightning_modules", "relprop")  # packages whose sources are read
IMPORTED = {*sys.stdlib_module_names, "lightning_modules.utils.options"}  # modules that are light


def named(module: str, name: str) -> Any:
    """What a module calls by a name, or what stands for it as long as the module is not imported.

    For a class stands one whose constructor has the same signature, for a dataclass one whose
    fields have the same types, for a constant its value.
    """
    return known(module, name, lambda: Source.of(module).stand_in(name))


# Registries that have another package's classes, too: the package, what names those it leaves out.
ADOPTED = {
    "lightning_modules.callbacks": (
        "lightning.pytorch.callbacks",
        ("lightning_modules.callbacks.registry", "LEFT_OUT"),
    )
}


def registered(module: str, name: str, decorator: str | None = None) -> Registry[Any]:
    """A registry, or one of what stands for its classes as long as the module is not imported.

    Args:
        module: the module or package whose import fills the registry.
        name: the registry's.
        decorator: what registers; None: the registry's ``register``.
    """
    return known(module, name, lambda: Declared(module, decorator or f"{name}.register"))


def about(registry: Registry[Any], name: str) -> str:
    """The first line of the docstring of what is registered by a name."""
    declared = isinstance(registry, Declared)
    found = registry.docstring(name) if declared else inspect.getdoc(registry[name])
    return (found or "").partition("\n")[0]


def known(module: str, name: str, read: Callable[[], Any]) -> Any:
    """A name of a module that has been imported; or else what is read."""
    if module not in sys.modules:
        try:
            return read()
        except Exception:  # an installation without sources, or one whose sources say it otherwise
            importlib.import_module(module)
    return getattr(sys.modules[module], name)


class Declared(Registry[Any]):
    """What a decorator registers in a module, or in a package's files in the order of their names.

    A class is read when it is looked up.
    """

    def __init__(self, module: str, decorator: str) -> None:
        super().__init__(decorator)
        if module in ADOPTED:
            package, left_out = ADOPTED[module]
            for name in sorted({*Source.of(package)["__all__"]} - {*named(*left_out)}):
                self[name] = (package, name)
        path = path_of(module)
        files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
        for file in files:
            if f"@{decorator}(" in file.read_text(encoding="utf-8"):
                within = file.relative_to(path.parent).with_suffix("").parts
                self.read(".".join([module, *within]) if len(files) > 1 else module, decorator)

    def read(self, module: str, decorator: str) -> None:
        for name, node in Source.of(module).nodes.items():
            for call in getattr(node, "decorator_list", ()):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == decorator:
                    self[ast.literal_eval(call.args[0])] = (module, name)

    def __getitem__(self, name: str) -> Any:
        return named(*super().__getitem__(name))

    def docstring(self, name: str) -> str | None:
        module, defined = super().__getitem__(name)
        return ast.get_docstring(Source.of(module).nodes[defined])


class Unknown(type):
    """Class of what stands for things that are not imported: each is some class, with any names."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unknown(name, (), {})

    def __getitem__(cls, arguments: Any) -> Any:
        return cls

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        return cls


class Source(dict[str, Any]):
    """The values of a module's names, each found when it is first looked up.

    Annotations and defaults are made of them. Constants have their values, and what light modules
    have is imported; anything else is :class:`Unknown`.

    Attributes:
        nodes: the statements that bind the names.
        classes: what stands for the module's classes, as far as it has been asked for.
    """

    def __init__(self, module: str) -> None:
        super().__init__()
        tree = ast.parse(path_of(module).read_bytes())
        self.nodes = {name: node for node in tree.body for name in names_bound(node)}
        self.classes: dict[str, type] = {}

    @staticmethod
    @cache
    def of(module: str) -> Source:
        return Source(module)

    def __missing__(self, name: str) -> Any:
        if name not in self.nodes and hasattr(builtins, name):
            raise KeyError(name)  # where eval looks next
        source, original = self.definition(name)
        node = source.nodes.get(original)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            self[name] = source.value(node.value)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self[name] = imported(node, original)
        else:
            self[name] = Unknown(original, (), {})
        return self[name]

    def definition(self, name: str) -> tuple[Source, str]:
        """The module that defines what is imported as a name, and its name there."""
        node = self.nodes.get(name)
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module not in IMPORTED:
            if node.module.partition(".")[0] in READ:
                return Source.of(node.module).definition(alias_of(node, name).name)
        return self, name

    def value(self, expression: ast.expr) -> Any:
        return eval(compile(ast.Expression(expression), "source", "eval"), {}, self)

    def stand_in(self, name: str) -> Any:
        """See :func:`named`."""
        source, original = self.definition(name)
        if not isinstance(source.nodes[original], ast.ClassDef):
            return source[original]
        if original not in source.classes:  # one class, or an order of bases would not be theirs
            source.classes[original] = source.class_like(source.nodes[original])
        return source.classes[original]

    def class_like(self, node: ast.ClassDef) -> type:
        """A class whose constructors have the same signatures."""
        members: dict[str, Any] = {}
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
            members["__annotations__"] = {
                ast.unparse(part.target): self.value(part.annotation) for part in fields
            }
        functions = (part for part in node.body if isinstance(part, ast.FunctionDef))
        constructor = next((part for part in functions if part.name == "__init__"), None)
        if constructor is not None:
            members["__init__"] = self.without_body(constructor)
        if constructor is not None and constructor.args.kwarg is None:
            return type(node.name, (), members)  # it hands nothing on to its bases
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        return type(node.name, tuple(self.stand_in(x) for x in bases if self.has(x)), members)

    def has(self, name: str) -> bool:
        """Whether a name is a class whose source can be read."""
        source, original = self.definition(name)
        return isinstance(source.nodes.get(original), ast.ClassDef)

    def without_body(self, function: ast.FunctionDef) -> Callable:
        """A function of the same signature that does nothing."""
        function = copy.deepcopy(function)
        function.body, function.decorator_list, function.returns = [ast.Pass()], [], None
        for argument in ast.walk(function.args):
            note = getattr(argument, "annotation", None)
            if isinstance(note, ast.Constant) and isinstance(note.value, str):
                argument.annotation = ast.parse(note.value, mode="eval").body
        module = ast.fix_missing_locations(ast.Module([function], []))
        exec(compile(module, "source", "exec", dont_inherit=True), {}, self)
        return self.pop(function.name)


def path_of(module: str) -> Path:
    """The file of a module."""
    package, *within = module.split(".")
    spec = importlib.util.find_spec(package)  # of what is within, it would import the package
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(module)
    path = Path(spec.submodule_search_locations[0], *within)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def names_bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def alias_of(node: ast.Import | ast.ImportFrom, name: str) -> ast.alias:
    """What an import binds to a name."""
    return next(a for a in node.names if name == (a.asname or a.name.partition(".")[0]))


def imported(node: ast.Import | ast.ImportFrom, name: str) -> Any:
    """What an import binds to a name; what is not light stays unknown."""
    alias = alias_of(node, name)
    module = node.module if isinstance(node, ast.ImportFrom) else alias.name
    if module is None or not {module, module.partition(".")[0]} & IMPORTED:
        return Unknown(name, (), {})
    if isinstance(node, ast.ImportFrom):
        return getattr(importlib.import_module(module), alias.name)
    return importlib.import_module(module if alias.asname else module.partition(".")[0])
