"""Torch's elementwise operations as expressions of single numbers, for `lowering.py`.

Names of arguments are those of torch's schemas. The name of an operation stands for all its overloads, and for its
variants in place. Booleans are the integers 0 and 1. NaN propagates exactly where it does in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Bound = dict[str, Any]
"""Arguments of an operation by their names in its schema: arrays in place of tensors, and numbers, lists, `None`."""

CREATION = {f"new_{kind}" for kind in ("zeros", "ones", "full", "empty", "empty_strided")}
CREATION |= {f"{kind}_like" for kind in ("zeros", "ones", "full", "empty")}
"""Operations that take the shape and type of a tensor, and not its numbers."""

IGNORED_ARGUMENTS = {"memory_format", "dtype", "layout", "non_blocking", "self", "self_is_result"}
"""Arguments that the type or shape of the result already reflects, or that do not change the numbers."""


def _cast(bound: Bound, dtype: torch.dtype) -> str:
    source = bound["self"].dtype
    if dtype == torch.bool:
        return "{self} != 0"
    if dtype == torch.int64 and source == torch.float64:
        # The result for NaN and numbers out of range depends on the processor; this is what torch gives on x86.
        return "(int({self}) if abs({self}) < 9.2e18 else -9223372036854775808)"
    return "float({self})" if dtype == torch.float64 else "{self}"


def _clamp(bound: Bound, dtype: torch.dtype) -> str:
    text = "{self}" if bound["min"] is None else "np.maximum({self}, {min})"
    return text if bound["max"] is None else f"np.minimum({text}, {{max}})"


def _power(bound: Bound, dtype: torch.dtype) -> str:
    expressions = {2: "{self} * {self}", 3: "{self} * {self} * {self}", 1: "{self}", 0.5: "math.sqrt({self})"}
    expressions |= {-1: "1.0 / {self}", -2: "1.0 / ({self} * {self})", -0.5: "1.0 / math.sqrt({self})", 0: "1.0"}
    return expressions.get(bound["exponent"], "{self} ** {exponent}")


def _quotient(bound: Bound, dtype: torch.dtype) -> str:
    mode = bound.get("rounding_mode")
    return "{self} / {other}" if mode is None else f"np.{mode}({{self}} / {{other}})"


def _not(bound: Bound, dtype: torch.dtype) -> str:
    return "{self} == 0" if dtype == torch.bool else "~{self}"


def _elu_slope(bound: Bound, dtype: torch.dtype) -> str:
    x = "{self_or_result}"
    if bound["is_result"]:
        exponential = f"({x} + {{alpha}} * {{scale}})"
    else:
        exponential = f"{{alpha}} * {{scale}} * math.exp({x} * {{input_scale}})"
    return f"{{grad_output}} * ({{input_scale}} * {exponential} if {x} <= 0 else {{scale}})"


_SIGMOID = "(1.0 / (1.0 + math.exp(-{self})))"
ELEMENTWISE: dict[str, str | Callable[[Bound, torch.dtype], str]] = {
    "add": "{self} + {other} * {alpha}",
    "sub": "{self} - {other} * {alpha}",
    "rsub": "{other} - {self} * {alpha}",
    "mul": "{self} * {other}",
    "div": _quotient,
    "pow": _power,
    "addcmul": "{self} + {value} * {tensor1} * {tensor2}",
    "addcdiv": "{self} + {value} * {tensor1} / {tensor2}",
    "neg": "-{self}",
    "abs": "abs({self})",
    "sign": "(1.0 if {self} > 0 else -1.0 if {self} < 0 else 0.0)",
    "sgn": "(1.0 if {self} > 0 else -1.0 if {self} < 0 else 0.0)",
    "square": "{self} * {self}",
    "reciprocal": "1.0 / {self}",
    "sqrt": "math.sqrt({self})",
    "rsqrt": "1.0 / math.sqrt({self})",
    **{
        name: f"math.{name}({{self}})" for name in ("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "sinh")
    },
    **{name: f"math.{name}({{self}})" for name in ("cosh", "asin", "acos", "atan", "erf")},
    "sinc": "(math.sin(math.pi * {self}) / (math.pi * {self}) if {self} != 0 else 1.0)",
    "atan2": "math.atan2({self}, {other})",
    "floor": "np.floor({self})",
    "ceil": "np.ceil({self})",
    "trunc": "np.trunc({self})",
    "round": "np.rint({self})",
    "remainder": "{self} - np.floor({self} / {other}) * {other}",
    **{name: f"np.{name}({{self}}, {{other}})" for name in ("maximum", "minimum", "fmax", "fmin")},
    "clamp": _clamp,
    "clamp_min": "np.maximum({self}, {min})",
    "clamp_max": "np.minimum({self}, {max})",
    "where": "({self} if {condition} else {other})",
    "masked_fill": "({value} if {mask} else {self})",
    "eq": "{self} == {other}",
    "ne": "{self} != {other}",
    "lt": "{self} < {other}",
    "le": "{self} <= {other}",
    "gt": "{self} > {other}",
    "ge": "{self} >= {other}",
    "isnan": "{self} != {self}",
    "logical_not": "{self} == 0",
    "logical_and": "({self} != 0) & ({other} != 0)",
    "logical_or": "({self} != 0) | ({other} != 0)",
    "bitwise_not": _not,
    "bitwise_and": "{self} & {other}",
    "bitwise_or": "{self} | {other}",
    "clone": "{self}",
    "copy": "{src}",
    "fill": "{value}",
    "_to_copy": _cast,
    "relu": "np.maximum({self}, 0.0)",
    "threshold_backward": "(0.0 if {self} <= {threshold} else {grad_output})",
    "leaky_relu": "({self} if {self} > 0 else {self} * {negative_slope})",
    "leaky_relu_backward": "({grad_output} if {self} > 0 else {grad_output} * {negative_slope})",
    "tanh_backward": "{grad_output} * (1.0 - {output} * {output})",
    "sigmoid": _SIGMOID,
    "sigmoid_backward": "{grad_output} * (1.0 - {output}) * {output}",
    "silu": "{self} * " + _SIGMOID,
    "silu_backward": f"{{grad_output}} * {_SIGMOID} * (1.0 + {{self}} * (1.0 - {_SIGMOID}))",
    "softplus": "({self} if {self} * {beta} > {threshold} else math.log1p(math.exp({self} * {beta})) / {beta})",
    "softplus_backward": "({grad_output} if {self} * {beta} > {threshold} else "
    "{grad_output} / (1.0 + math.exp(-{self} * {beta})))",
    "elu": "({scale} * {self} if {self} > 0 else {alpha} * {scale} * math.expm1({self} * {input_scale}))",
    "elu_backward": _elu_slope,
    "celu": "({self} if {self} > 0 else {alpha} * math.expm1({self} / {alpha}))",
    "gelu": "0.5 * {self} * (1.0 + math.erf({self} * 0.7071067811865476))",
    "gelu_backward": "{grad_output} * (0.5 * (1.0 + math.erf({self} * 0.7071067811865476))"
    " + 0.3989422804014327 * {self} * math.exp(-0.5 * {self} * {self}))",
}
"""Expression of the result for one number of each argument, or a function of arguments and type that returns it."""
