"""Which classes and functions a recording's pickle may name.

Nothing named here is ever imported or called: a name is a label that tells
how to read the data beside it. Names outside the list are refused, because a
recording has no use for them and a harmful pickle does.

Module paths follow the places these objects had over the years: numpy 1.13 to
2.4, pandas 0.25 to 3.1, xarray 0.15 to 2026.9, pyarrow (strings of pandas 3).
"""

from __future__ import annotations

from itertools import product

from mvkit.neural.pickle_values import Name


def _places(modules: str, names: str) -> frozenset[tuple[str, str]]:
    return frozenset(product(modules.split(), names.split()))


RECONSTRUCT = _places("numpy.core.multiarray numpy._core.multiarray", "_reconstruct")
SCALAR = _places("numpy.core.multiarray numpy._core.multiarray", "scalar")
FROM_BUFFER = _places("numpy.core.numeric numpy._core.numeric", "_frombuffer")
DTYPE = _places("numpy", "dtype")
ARRAY_CLASS = _places("numpy", "ndarray") | _places("pandas.core.indexes.frozen", "FrozenNDArray")

NEW_INDEX = _places("pandas.core.indexes.base", "_new_Index")
MULTI_INDEX = _places("pandas pandas.core.indexes.multi", "MultiIndex")
RANGE_INDEX = _places("pandas pandas.core.indexes.range", "RangeIndex")
PLAIN_INDEX = _places("pandas pandas.core.indexes.base", "Index") | _places(
    "pandas.core.indexes.numeric", "Int64Index UInt64Index Float64Index NumericIndex IntegerIndex"
)
FROZEN_LIST = _places("pandas.core.indexes.frozen", "FrozenList")

STRING_DTYPE = _places("pandas pandas.core.arrays.string_", "StringDtype")
STRING_ARRAY = _places("pandas.arrays pandas.core.arrays.string_", "StringArray StringArrayNumpySemantics")
STRING_ARRAY_MAKER = _places("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked")
ARROW_STRING_ARRAY = _places(
    "pandas.arrays pandas.core.arrays.string_arrow", "ArrowStringArray ArrowStringArrayNumpySemantics"
)
ARROW_ARRAY = _places("pyarrow.lib", "_restore_array")
ARROW_CHUNKS = _places("pyarrow.lib", "chunked_array")
ARROW_TYPE = _places("pyarrow.lib", "type_for_alias")
ARROW_BUFFER = _places("pyarrow.lib", "py_buffer")
MISSING = _places("pandas._libs.missing pandas", "NA")

DATA_ARRAY = _places("xarray.core.dataarray", "DataArray")
VARIABLE = _places("xarray.core.variable", "Variable IndexVariable")
INDEX_ADAPTER = _places(
    "xarray.core.indexing", "PandasIndexAdapter PandasIndexingAdapter PandasMultiIndexingAdapter"
)
XARRAY_INDEX = _places("xarray.core.indexes", "PandasIndex PandasMultiIndex")

ENCODE = _places("_codecs", "encode")
BYTES_MAKER = _places("builtins __builtin__", "bytes bytearray")
MAPPING_MAKER = _places("collections", "OrderedDict") | _places("builtins __builtin__", "dict")
_INERT = _places("builtins __builtin__", "slice range xrange")

ALLOWED = frozenset().union(
    *(RECONSTRUCT, SCALAR, FROM_BUFFER, DTYPE, ARRAY_CLASS),
    *(NEW_INDEX, MULTI_INDEX, RANGE_INDEX, PLAIN_INDEX, FROZEN_LIST),
    *(STRING_DTYPE, STRING_ARRAY, STRING_ARRAY_MAKER, ARROW_STRING_ARRAY),
    *(ARROW_ARRAY, ARROW_CHUNKS, ARROW_TYPE, ARROW_BUFFER, MISSING),
    *(DATA_ARRAY, VARIABLE, INDEX_ADAPTER, XARRAY_INDEX),
    *(ENCODE, BYTES_MAKER, MAPPING_MAKER, _INERT),
)


def is_one_of(value: object, places: frozenset[tuple[str, str]]) -> bool:
    """Tell whether ``value`` is a :class:`Name` of one of these places."""
    return isinstance(value, Name) and (value.module, value.name) in places
