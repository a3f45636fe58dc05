"""What a TorchScript file may do: a list of operators, to which a CV file is compared before anything in it is run.

TorchScript is a programming language. A program in it can write and read files, besides evaluating a variable, and
what a file defines as `__setstate__` is run when the file is loaded. Of a file that somebody sent, neither is wanted.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from latf_sampling.errors import CVError

ARITHMETIC = """
abs absolute acos acosh add addcdiv addcmul addmm addmv addbmm addr angle arccos arccosh arcsin arcsinh arctan arctan2
arctanh asin asinh atan atan2 atanh baddbmm bmm ceil celu clamp clamp_max clamp_min clip copysign cos cosh
cosine_similarity cross deg2rad diff div divide dot elu erf erfc erfinv exp exp2 expm1 fix float_power floor
floor_divide fmax fmin fmod frac gelu ger hardsigmoid hardswish hardtanh hypot inner layer_norm leaky_relu lerp lgamma
linear log log10 log1p log2 log_sigmoid log_softmax logaddexp logaddexp2 logit matmul maximum minimum mish mm mse_loss
mul multiply mv nan_to_num neg negative normalize outer pairwise_distance pdist cdist _cdist_forward positive pow
prelu rad2deg reciprocal relu relu6 remainder round rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh softmax
softplus softshrink softsign special_* sqrt square sub subtract tan tanh tanhshrink tensordot threshold true_divide
trunc vdot xlogy smooth_l1_loss huber_loss bilinear hardshrink heaviside polygamma digamma i0 polar complex real imag
view_as_real view_as_complex conj _conj resolve_conj resolve_neg fft_* linalg_* det logdet inverse pinverse cholesky
qr svd norm frobenius_norm nuclear_norm dist renorm chain_matmul kron einsum trace matrix_power matrix_exp cov
corrcoef
"""
REDUCTION = """
all amax amin any aminmax argmax argmin argsort bincount bucketize count_nonzero cummax cummin cumprod cumsum
cumulative_trapezoid histc kthvalue logcumsumexp logsumexp max mean median min mode msort nanmean nanmedian
nanquantile nansum prod quantile searchsorted sort std std_mean sum topk trapezoid trapz unique_consecutive unique_dim
var var_mean _unique2 segment_reduce
"""
COMPARISON = """
allclose bitwise_and bitwise_not bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift eq equal ge greater
greater_equal gt is_nonzero isclose isfinite isin isinf isnan isneginf isposinf le less less_equal logical_and
logical_not logical_or logical_xor lt ne not_equal where __and__ __or__ __xor__ __not__ __is__ __isnot__ __contains__
__lshift__ __rshift__
"""
SHAPE = """
adjoint alias as_strided atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cartesian_prod cat
chunk clone column_stack combinations concat concatenate constant_pad_nd contiguous detach diag diag_embed diagflat
diagonal diagonal_scatter dim dstack expand expand_as flatten flip fliplr flipud gather hsplit hstack index index_add
index_copy index_fill index_put index_reduce index_select is_complex is_contiguous is_floating_point masked_fill
masked_scatter masked_select meshgrid mH moveaxis movedim mT narrow narrow_copy nonzero nonzero_numpy numel numpy_T
one_hot pad permute put ravel repeat repeat_interleave reshape reshape_as roll rot90 row_stack scatter scatter_add
scatter_reduce select select_scatter size slice slice_scatter split split_with_sizes squeeze stack stride sum_to_size
swapaxes swapdims T t take take_along_dim tensor_split tile transpose tril tril_indices triu triu_indices unbind
unflatten unfold unsafe_chunk unsafe_split unsqueeze vander view view_as vsplit vstack
"""
CREATION = """
arange as_tensor empty empty_like eye full full_like linspace logspace new_empty new_full new_ones new_zeros ones
ones_like scalar_tensor tensor to type_as zeros zeros_like copy fill zero bool cpu double float int item _to_copy
lift_fresh requires_grad
"""
LANGUAGE = """
Bool Complex Float FloatImplicit Int IntImplicit Scalar ScalarImplicit ComplexImplicit __derive_index __getitem__
__interpolate __range_length _set_item append clear copy degrees dict device dtype extend find format get get_device
hash index insert isalnum items join keys layout len list lower ord pop popitem radians range_length remove replace
reverse setdefault sorted startswith endswith str strip update upper values warn dropout sym_size sym_numel sym_stride
floordiv ceildiv gcd factorial _assert _assert_async
"""
ALLOWED = frozenset(" ".join([ARITHMETIC, REDUCTION, COMPARISON, SHAPE, CREATION, LANGUAGE]).split())
"""Names of the operators of torch's namespace `aten` that a variable may consist of, without the underscore at the end
that those have which change a tensor in place; a star stands for any end. None of them reads or writes a file."""
FAMILIES = tuple(name[:-1] for name in ALLOWED if name.endswith("*"))
LANGUAGE_PRIMITIVES = """
abs Constant CreateObject data device DictConstruct dtype GetAttr If index is_cpu is_cuda is_sparse is_nested
isinstance itemsize layout ListConstruct ListUnpack Loop max min ndim NumToTensor RaiseException rangelist
requires_grad SetAttr shape tolist TupleConstruct TupleIndex TupleSlice TupleUnpack unchecked_cast
unchecked_unwrap_optional Uninitialized
"""
PRIMITIVES = frozenset(LANGUAGE_PRIMITIVES.split())
"""Those of the namespace `prim`, the words of the language itself."""


def check_archive(content: bytes) -> None:
    """Refuse the bytes of a TorchScript file that would run code as soon as it is loaded.

    Raises
    ------
    CVError
        A class in the file defines `__setstate__`, or it holds an object of C++.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            if not name.endswith((".py", ".pkl")):
                continue
            text = archive.read(name)
            for word in (b"__setstate__", b"torch.classes"):
                if word in text:
                    raise CVError(f"{name} in it uses {word.decode()}, which would run when the file is loaded")


def check_operators(module: Any) -> None:
    """Refuse a compiled module, if one of its functions uses an operator that is not on the list.

    Parameters
    ----------
    module
        A `torch.jit.ScriptModule`, of which nothing was evaluated yet.

    Raises
    ------
    CVError
        Names the operator.
    """
    for part in module.modules():
        for name in part._c._method_names():
            graph = part._c._get_method(name).graph.copy()
            torch._C._jit_pass_inline(graph)
            for node in _nodes(graph):
                kind = node.kind()
                if not _allowed(kind):
                    raise CVError(
                        f"it uses the operator {kind}, which is none of those that a variable may consist of "
                        "(latf_sampling.cv.operators)"
                    )


def _nodes(block: Any) -> Iterator[Any]:
    """All nodes of a graph, those in the branches of `if` and the bodies of loops among them."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _allowed(kind: str) -> bool:
    namespace, _, name = kind.partition("::")
    if namespace == "prim":
        return name in PRIMITIVES
    if namespace != "aten":
        return False
    plain = name if name.startswith("__") else name.rstrip("_")
    return plain in ALLOWED or name.startswith(FAMILIES)
