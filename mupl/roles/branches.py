"""Residual branches, in models without `mupl.nn.multipliers.Residual`: read from their code.

A branch is what a block adds to the stream: `x = x + dropout(self.mlp(self.norm(x)))`. The module
whose output is added, here `mlp`, is found in the source of the block's forward pass.
"""

import ast
import functools
from collections.abc import Collection, Iterator

from torch import nn

from mupl.names import child_path, is_in_blocks, layer_pattern, match_globs
from mupl.roles.attention import is_inside
from mupl.roles.infos import (
    Insertion,
    InsertionKind,
    MultiplierInfo,
    MultiplierRole,
    multipliers,
)
from mupl.roles.source import forward_source

SUFFIX = "output_scale"  # last part of the name of a branch's multiplier

STREAM = "<stream>"  # what a variable holds that is the residual stream, and no child's output
# What blocks call the stream while they compute a branch, and children on its way
_STREAMS = (
    "residual",
    "identity",
    "shortcut",
    "skip",
    "downsample",
    "input",
    "inputs",
    "input_tensor",
)
# Methods of a tensor that a multiplier passes through
_LAYOUT = ("transpose", "permute", "view", "reshape", "flatten", "contiguous", "to", "type")


def describe_branches(
    model: nn.Module, globs: Collection[str] | None, patterns: Collection[str]
) -> tuple[dict[str, MultiplierInfo], list[str]]:
    """Describe the multiplier of every residual branch of a model that has no `Residual`.

    Args:
        globs: on paths of the modules whose outputs are branches; None: they are found.
        patterns: of the modules whose number grows with depth (`mupl.names.layer_pattern`).

    Returns:
        The multipliers by name, and the blocks in which no branch was found.
    """
    paths = list(dict(model.named_modules()))
    if globs is not None:
        return _infos(match_globs("residual", globs, paths)), []
    own = [found.multiplier_role for found in multipliers(model).values()]
    if MultiplierRole.RESIDUAL in own:
        return {}, []
    within = [path for path in paths if is_in_blocks(path, patterns)]
    found = []
    for path in within:
        for child in find_branches(model.get_submodule(path)):
            found.append(child_path(path, child))
    branches = [path for path in found if not _is_nested(path, found)]
    blocks = [path for path in within if layer_pattern(path).endswith("*")]
    empty = []
    for block in blocks:
        has_branch = any(is_inside(branch, block) for branch in branches)
        if not has_branch and not _is_nested(block, blocks):
            empty.append(block)
    return _infos(branches), empty


def find_branches(module: nn.Module) -> list[str]:
    """Return the children whose outputs a module adds to the stream.

    The stream is what the module was given, or a sum with that, or a norm's output.

    Example:
        >>> find_branches(nn.TransformerEncoderLayer(8, 2))
        ['self_attn', 'linear2']
    """
    source = forward_source(module)
    if "+" not in source:
        return []
    reader = _Reader(module, _parsed(source))
    reader.read("forward")
    return [] if reader.unsure else list(dict.fromkeys(reader.branches))


@functools.cache  # a model has many modules of one class
def _parsed(source: str) -> ast.ClassDef:
    (kind,) = ast.parse(source).body
    assert isinstance(kind, ast.ClassDef)
    return kind


def _infos(paths: Collection[str]) -> dict[str, MultiplierInfo]:
    infos = {}
    for path in paths:
        infos[child_path(path, SUFFIX)] = MultiplierInfo(
            role=MultiplierRole.RESIDUAL,
            value=1.0,
            fan_in=1,
            m_in=1.0,
            grows=False,
            insertion=Insertion(InsertionKind.OUTPUT, path),
        )
    return infos


def _is_nested(path: str, others: Collection[str]) -> bool:
    """Say whether a module is within another one of a list."""
    return any(path != other and is_inside(path, other) for other in others)


class _Reader:
    """Reads methods of a module's class, for what each variable holds.

    That is the name of the child whose output it is, or `STREAM`, or None if it is not known.

    Attributes:
        branches: names of children whose outputs were added to the stream.
        unsure: whether one of these is a dropout that is used elsewhere too.
    """

    def __init__(self, module: nn.Module, kind: ast.ClassDef) -> None:
        self._module = module
        self._source = ast.unparse(kind)
        self._children = dict(module.named_children())
        self._methods = {
            method.name: method for method in kind.body if isinstance(method, ast.FunctionDef)
        }
        self._reading: list[str] = []  # methods, of which one may call itself
        self.branches: list[str] = []
        self.unsure = False

    def read(self, method: str) -> str | None:
        """Read a method; return what its result is."""
        if method not in self._methods or method in self._reading:
            return None
        self._reading.append(method)
        definition = self._methods[method]
        held: dict[str, str | None] = {}
        for argument in definition.args.args:
            held[argument.arg] = STREAM
        returned = None
        for statement in _statements(definition):
            if isinstance(statement, ast.Return) and statement.value is not None:
                returned = self._source_of(statement.value, held)
            elif isinstance(statement, ast.Expr):
                self._source_of(statement.value, held)
            elif isinstance(statement, ast.Assign) and not self._is_left_out(statement.value):
                source = self._source_of(statement.value, held)
                self._assign(statement.targets[0], source, held)
            elif isinstance(statement, ast.AugAssign) and isinstance(statement.op, ast.Add):
                total = self._add([statement.target, statement.value], held)
                self._assign(statement.target, total, held)
        self._reading.pop()
        return returned

    def _is_left_out(self, value: ast.expr) -> bool:
        """Say whether an expression calls a child that is None, so that it is never computed."""
        if not isinstance(value, ast.Call):
            return False
        function = ast.unparse(value.func)
        name = function.removeprefix("self.")
        return name != function and getattr(self._module, name, self) is None

    def _assign(self, target: ast.expr, source: str | None, held: dict[str, str | None]) -> None:
        """Note what a variable holds; of several the first one holds a child's output."""
        if isinstance(target, ast.Tuple):
            for other in target.elts[1:]:
                self._assign(other, None, held)
            target = target.elts[0]
        if isinstance(target, ast.Name):
            held[target.id] = STREAM if target.id in _STREAMS else source

    def _source_of(self, value: ast.expr, held: dict[str, str | None]) -> str | None:
        """Return what an expression is, up to dropout and numbers."""
        if isinstance(value, ast.Name):
            return held.get(value.id)
        if isinstance(value, ast.Subscript):
            is_first = isinstance(value.slice, ast.Constant) and value.slice.value == 0
            if not is_first:
                return None
            return self._source_of(value.value, held)
        if isinstance(value, ast.Call):
            return self._source_of_call(value, held)
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
            return self._add(list(_terms(value)), held)
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult):
            left = self._source_of(value.left, held)
            right = self._source_of(value.right, held)
            if left is None:
                return right
            if right is None:
                return left
        return None

    def _source_of_call(self, call: ast.Call, held: dict[str, str | None]) -> str | None:
        function = ast.unparse(call.func)
        arguments = [self._source_of(argument, held) for argument in call.args]
        first = arguments[0] if arguments else None
        method = function.rpartition(".")[2]
        name = function.removeprefix("self.")
        if function.startswith("self.") and name in self._children:
            return self._source_of_child(name, first)
        if function == f"self.{method}":
            return self.read(name)
        if isinstance(call.func, ast.Attribute) and method in _LAYOUT:
            return self._source_of(call.func.value, held)
        return first if method == "dropout" else None

    def _source_of_child(self, name: str, given: str | None) -> str | None:
        """Return a child, or, of one that passes on its input, the child that made that."""
        if name in _STREAMS:
            return STREAM
        if not _keeps(self._children[name]):
            return name
        if given is None and self._source.count(f"self.{name}(") > 1:
            self.unsure = True
        return given or name

    def _add(self, terms: list[ast.expr], held: dict[str, str | None]) -> str | None:
        """Note the children whose outputs are added to the stream; return what the sum is."""
        sources = [self._source_of(term, held) for term in terms]
        children = [source for source in sources if source is not None and source != STREAM]
        if STREAM not in sources:
            norms = [child for child in children if self._is_norm(child)]
            if len(norms) != 1 or len(children) < len(terms):
                return None
            children.remove(norms[0])
        self.branches += children
        return STREAM

    def _is_norm(self, child: str) -> bool:
        return type(self._children[child]).__name__.endswith("Norm")


def _keeps(module: nn.Module) -> bool:
    """Say whether a module passes on its input but for entries that are dropped."""
    name = type(module).__name__
    return isinstance(module, nn.Identity | nn.Dropout) or name in ("DropPath", "StochasticDepth")


def _terms(value: ast.expr) -> Iterator[ast.expr]:
    """Yield what a sum adds."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        yield from _terms(value.left)
        yield from _terms(value.right)
    else:
        yield value


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a method in their order, also within conditions and loops."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.expr):
            yield from _statements(child)
