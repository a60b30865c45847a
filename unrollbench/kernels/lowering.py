"""Kernel text to machine code without type inference: every value is an int64, every call an instruction or a kernel.

What the generator of this package writes is a small part of Python: names, integers, + - * // % &, comparisons, `and`,
a conditional expression, assignment (of several at once too), `if`, `while`, `for` over a rising `range`, `return`, and
calls of `min` and of what the namespace holds. It means what it means in Python, but for integers beyond 64 bits.
To find out that all of it are integers would take Numba longer than LLVM takes for the code.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from unrollbench.kernels.build import Kernel
from unrollbench.kernels.words import Emit

I64 = ir.IntType(64)
ARITHMETIC = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.BitAnd: "and_"}
COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


def kernel(text: str, name: str, namespace: Mapping[str, Emit], uses: Iterable[Kernel] = ()) -> Kernel:
    """The function `name` of the text, compiled. namespace: what it may call.

    Raises SyntaxError where the text is no such Python as above.
    """
    (function,) = ast.parse(text, f"<kernel {name}>").body
    if not isinstance(function, ast.FunctionDef) or function.name != name:
        raise SyntaxError(f"kernel {name}: expected one function of that name")
    arguments = [argument.arg for argument in function.args.args]

    def emit(builder: Any, *values: Any) -> None:
        _Body(builder, namespace).function(arguments, values, function.body)

    return Kernel(name, emit, len(arguments), uses)


class _Body:
    """Emits the statements of one function into the function that is being built."""

    def __init__(self, builder: Any, namespace: Mapping[str, Emit]) -> None:
        self.builder, self.namespace = builder, namespace
        self.places: dict[str, Any] = {}
        self.end = builder.append_basic_block("end")

    def function(self, arguments: list[str], values: Iterable[Any], body: list[ast.stmt]) -> None:
        """All of the function; the builder stands at its end."""
        for argument, value in zip(arguments, values, strict=True):
            self.builder.store(value, self.place(argument))
        self.statements(body)
        if not self.builder.block.is_terminated:
            self.builder.branch(self.end)
        self.builder.position_at_end(self.end)

    def place(self, name: str) -> Any:
        """The stack slot of a variable, which LLVM turns into a register."""
        if name not in self.places:
            self.places[name] = cgutils.alloca_once(self.builder, I64, name=name)
        return self.places[name]

    # ------------------------------------------------------------ statements

    def statements(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self._one(statement)
            if isinstance(statement, ast.Return):
                return

    def _one(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                found = [self.value(value) for value in values]  # all of them before any is assigned
                for target, value in zip(names, found, strict=True):
                    self._assign(target, value)
            case ast.Assign(targets=[target], value=value):
                self._assign(target, self.value(value))
            case ast.AugAssign(target=target, value=value):
                self._assign(target, self._binary(statement, self.value(target), self.value(value)))
            case ast.Expr(value=ast.Call() as call):
                self._call(call)
            case ast.If(test=test, body=body, orelse=orelse):
                self._if(test, body, orelse)
            case ast.While(test=test, body=body, orelse=[]):
                self._loop(lambda: self.condition(test), body)
            case ast.For(target=ast.Name(id=name), iter=ast.Call(func=ast.Name(id="range")) as counted, orelse=[]):
                self._for(name, counted, statement.body)
            case ast.Return(value=None):
                self.builder.branch(self.end)
            case _:
                raise _unknown(statement)

    def _assign(self, target: ast.expr, value: Any) -> None:
        if not isinstance(target, ast.Name):
            raise _unknown(target)
        self.builder.store(value, self.place(target.id))

    def _if(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt]) -> None:
        builder = self.builder
        then, otherwise, after = (builder.append_basic_block() for _ in range(3))
        builder.cbranch(self.condition(test), then, otherwise)
        for block, statements in ((then, body), (otherwise, orelse)):
            builder.position_at_end(block)
            self.statements(statements)
            if not builder.block.is_terminated:
                builder.branch(after)
        builder.position_at_end(after)

    def _loop(self, condition: Callable[[], Any], body: list[ast.stmt], then: Callable[[], None] | None = None) -> None:
        builder = self.builder
        head, inside, after = (builder.append_basic_block() for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        builder.cbranch(condition(), inside, after)
        builder.position_at_end(inside)
        self.statements(body)
        if not builder.block.is_terminated:
            if then is not None:
                then()
            builder.branch(head)
        builder.position_at_end(after)

    def _for(self, name: str, counted: ast.Call, body: list[ast.stmt]) -> None:
        """A loop over range(stop) or range(start, stop[, step]), the step a number above 0; `name` is not its count."""
        match counted.args:
            case [_] | [_, _]:
                pass
            case [_, _, ast.Constant(value=int(number))] if number > 0:
                pass
            case _:
                raise _unknown(counted)
        builder, args = self.builder, [self.value(argument) for argument in counted.args]
        start, stop = (ir.Constant(I64, 0), args[0]) if len(args) == 1 else args[:2]
        step = args[2] if len(args) == 3 else ir.Constant(I64, 1)
        count = cgutils.alloca_once(builder, I64)
        builder.store(start, count)

        def condition() -> Any:
            now = builder.load(count)
            builder.store(now, self.place(name))
            return builder.icmp_signed("<", now, stop)

        self._loop(condition, body, lambda: builder.store(builder.add(builder.load(count), step), count))

    # ------------------------------------------------------------ values

    def value(self, node: ast.expr) -> Any:
        """The int64 that an expression is; a comparison is 0 or 1."""
        builder = self.builder
        match node:
            case ast.Constant(value=int() as number):
                return ir.Constant(I64, int(number))
            case ast.Name(id=name):
                if name not in self.places:
                    raise _unknown(node)
                return builder.load(self.places[name])
            case ast.BinOp(left=left, right=right):
                return self._binary(node, self.value(left), self.value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return builder.neg(self.value(operand))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._either(test, body, orelse)
            case ast.Call(func=ast.Name(id="min"), args=[left, right]):
                first, second = self.value(left), self.value(right)
                return builder.select(builder.icmp_signed("<", second, first), second, first)
            case ast.Call():
                return self._call(node)
            case ast.Compare() | ast.BoolOp():
                return builder.zext(self.condition(node), I64)
            case _:
                raise _unknown(node)

    def condition(self, node: ast.expr) -> Any:
        """Whether an expression is true. `and` evaluates no further than to what is false."""
        builder = self.builder
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
                return builder.icmp_signed(COMPARISONS[type(op)], self.value(left), self.value(right))
            case ast.BoolOp(op=ast.And(), values=[*values]):
                after = builder.append_basic_block()
                found = []
                for value in values[:-1]:
                    following = builder.append_basic_block()
                    builder.cbranch(self.condition(value), following, after)
                    found.append((ir.Constant(ir.IntType(1), 0), builder.block))
                    builder.position_at_end(following)
                found.append((self.condition(values[-1]), builder.block))
                builder.branch(after)
                builder.position_at_end(after)
                phi = builder.phi(ir.IntType(1))
                for value, block in found:
                    phi.add_incoming(value, block)
                return phi
            case ast.Compare() | ast.BoolOp():
                raise _unknown(node)
            case _:
                return builder.icmp_signed("!=", self.value(node), ir.Constant(I64, 0))

    def _either(self, test: ast.expr, body: ast.expr, orelse: ast.expr) -> Any:
        """One of two values; the other is not computed."""
        builder = self.builder
        then, otherwise, after = (builder.append_basic_block() for _ in range(3))
        builder.cbranch(self.condition(test), then, otherwise)
        found = []
        for block, node in ((then, body), (otherwise, orelse)):
            builder.position_at_end(block)
            found.append((self.value(node), builder.block))
            builder.branch(after)
        builder.position_at_end(after)
        phi = builder.phi(I64)
        for value, block in found:
            phi.add_incoming(value, block)
        return phi

    def _binary(self, node: ast.BinOp | ast.AugAssign, left: Any, right: Any) -> Any:
        if type(node.op) in ARITHMETIC:
            return getattr(self.builder, ARITHMETIC[type(node.op)])(left, right)
        if isinstance(node.op, ast.FloorDiv | ast.Mod):
            return self._floor_division(left, right)[isinstance(node.op, ast.Mod)]
        raise _unknown(node)

    def _floor_division(self, left: Any, right: Any) -> tuple[Any, Any]:
        """(quotient, remainder), rounded towards minus infinity as in Python and not towards 0 as processors do."""
        builder, zero = self.builder, ir.Constant(I64, 0)
        quotient = builder.sdiv(left, right)
        rest = builder.sub(left, builder.mul(quotient, right))
        signs_differ = builder.icmp_signed("<", builder.xor(left, right), zero)
        beyond = builder.and_(builder.icmp_signed("!=", rest, zero), signs_differ)
        quotient = builder.sub(quotient, builder.zext(beyond, I64))
        return quotient, builder.add(rest, builder.select(beyond, right, zero))

    def _call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name) or node.func.id not in self.namespace or node.keywords:
            raise _unknown(node)
        return self.namespace[node.func.id](self.builder, *map(self.value, node.args))


def _unknown(node: ast.AST) -> SyntaxError:
    place = f"line {node.lineno}: " if hasattr(node, "lineno") else ""
    return SyntaxError(f"{place}{ast.unparse(node)!r} is no statement or value that kernel text may have")
