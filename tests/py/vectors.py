"""The standard's test vectors of single nodes, in the opsets in which they are valid."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

# Two runs of these differ.
RANDOM = {"Bernoulli", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Dropout"}

# The oldest opset that ONNX Runtime loads.
OLDEST = 7


def single_nodes(newest: int, *, oldest: bool) -> Iterator[tuple[str, onnx.ModelProto, dict[str, np.ndarray]]]:
    """Name, model and inputs of each vector of one node of the default domain, by tensors only.

    The model imports the oldest opset in which it is valid, or else the newest up to `newest`.
    """
    versions: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain and schema.since_version <= newest:
            versions.setdefault(schema.name, set()).add(max(schema.since_version, OLDEST))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        if case.model is None or len(case.model.graph.node) != 1 or case.model.graph.node[0].domain:
            continue
        inputs = case.data_sets[0][0]
        if not all(isinstance(x, np.ndarray) for x in inputs):
            continue
        feeds = {i.name: x for i, x in zip(case.model.graph.input, inputs, strict=False)}
        known = sorted(versions.get(case.model.graph.node[0].op_type, ()), reverse=not oldest)
        for opset in known:
            model = onnx.ModelProto()
            model.CopyFrom(case.model)
            model.opset_import[0].version = opset
            model.ir_version = min(model.ir_version, 10)
            try:
                onnx.checker.check_model(model, full_check=True)
            except Exception:  # noqa: BLE001 - not valid in this version
                continue
            yield case.name, model, feeds
            break
