"""`nbits` where names have scopes: graph inputs and outputs, subgraphs, local functions."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import AttributeProto, helper

import dequant
import harness
from builders import BOOL, CONTRIB, FLOAT, INT64, GraphBuilder, random, tensor
from nbits_case import Case, Weight, check, one_or_two

K, N = 40, 24
X = random(5, K, seed=1)


def matmul(b: GraphBuilder, x: str, w: str, out: str = "y", name: str = "mm") -> str:
    return b.node("MatMul", x, w, out=out, name=name)


# --- weights that are also graph inputs or graph outputs


def listed_as_input(ir_version: int, **expected) -> Case:
    """An initializer that is a graph input too, as every one is up to IR 3."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        b.input("W", (K, N))
        matmul(b, "x", b.weight("W", arrays["W"]))
        b.output("y", (5, N))
        return b.model(opset=8 if ir_version == 3 else 17, ir_version=ir_version)

    return Case(f"IR {ir_version}", build, {"x": X}, **expected)


def test_input_with_a_value_is_constant_in_ir_3(onnxq):
    check(listed_as_input(3, quantized={"W": Weight(random(K, N))}, matmuls=1), onnxq)


@pytest.mark.parametrize("ir_version", [4, 8])
def test_input_with_a_value_may_be_overridden_since_ir_4(ir_version, onnxq):
    kept = {"W": random(K, N)}
    check(listed_as_input(ir_version, kept=kept, left={"mm": "overridable"}), onnxq)
    feeds = {"x": X, "W": random(K, N, seed=9)}
    found = harness.run_model(onnxq.dir / "out.onnx", feeds)["y"]
    plain = harness.run_model(onnxq.dir / "in.onnx", feeds)["y"]
    np.testing.assert_array_equal(found, plain)


def test_weight_that_is_a_graph_output(onnxq):
    """The caller gets the float weight, bit for bit; what the product reads is another matter."""
    w = random(K, N)

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        kept, rounded = one_or_two(b, arrays["kept"], arrays["rounded"])
        matmul(b, "x", rounded)
        b.output("y", (5, N))
        b.output(kept, (K, N))
        return b.model()

    left = {"mm": "kept-float"}
    case = Case("output", build, {"x": X}, {"rounded": Weight(w)}, {"kept": w}, matmuls=1, left=left)
    check(case, onnxq)
    np.testing.assert_array_equal(harness.run_model(onnxq.dir / "out.onnx", {"x": X})["W"], w)


def test_product_that_is_a_graph_output_and_read_on(onnxq):
    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        b.node("Relu", matmul(b, "x", b.weight("W", arrays["W"]), out="h"), out="y")
        b.output("y", (5, N))
        b.output("h", (5, N))
        return b.model()

    check(Case("both", build, {"x": X}, {"W": Weight(random(K, N))}, matmuls=1), onnxq)


def test_unnamed_nodes(onnxq):
    """Node names are optional; two nodes without one are two nodes."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        matmul(b, "x", b.weight("A", arrays["A"]), "h")
        matmul(b, "h", b.weight("B", arrays["B"]), "y")
        b.output("y", (5, 16))
        model = b.model()
        for node in model.graph.node:
            node.ClearField("name")
        return model

    weights = {"A": Weight(random(K, N)), "B": Weight(random(N, 16))}
    check(Case("unnamed", build, {"x": X}, weights, matmuls=2), onnxq)


def test_names_that_new_values_might_want(onnxq):
    """Values of the model already have the names that a quantizer likes to give."""

    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        for suffix in ("_Q4", "_scales", "_zero_points", "_q4", "_scale", "_quantized"):
            b.weight(f"W{suffix}", np.ones(N, np.float32))
            b.node("Identity", f"W{suffix}", out=f"y{suffix}", name=f"mm{suffix}")
            b.output(f"y{suffix}", (N,))
        matmul(b, "x", b.weight("W", arrays["W"]))
        b.output("y", (5, N))
        return b.model()

    check(Case("names", build, {"x": X}, {"W": Weight(random(K, N))}, matmuls=1), onnxq)


# --- subgraphs


def branch(name: str, fill) -> object:
    """A body without inputs; `fill(builder)` returns the value that it gives out."""
    b = GraphBuilder()
    b.output(fill(b), (5, N))
    return b.graph(name)


def if_model(then_fill, else_fill, outer=lambda b: None):
    b = GraphBuilder()
    b.input("x", (5, K))
    b.input("choice", (), BOOL)
    outer(b)
    b.node(
        "If",
        "choice",
        out="y",
        name="if",
        then_branch=branch("then", then_fill),
        else_branch=branch("else", else_fill),
    )
    b.output("y", (5, N))
    return b.model()


BOTH = [np.array(True), np.array(False)]


@pytest.mark.parametrize("choice", BOTH, ids=str)
def test_if_with_local_weights(choice, onnxq):
    def build(arrays):
        return if_model(
            lambda b: matmul(b, "x", b.weight("A", arrays["A"]), "a", "mm_then"),
            lambda b: matmul(b, "x", b.constant("B", arrays["B"]), "b", "mm_else"),
        )

    weights = {"A": Weight(random(K, N, seed=1)), "B": Weight(random(K, N, seed=2))}
    check(Case("local", build, {"x": X, "choice": choice}, weights, matmuls=2), onnxq)


@pytest.mark.parametrize("choice", BOTH, ids=str)
def test_if_with_one_captured_weight(choice, onnxq):
    """Both branches read a weight of the main graph: one set of codes, where both see it."""

    def build(arrays):
        return if_model(
            lambda b: matmul(b, "x", "W", "a", "mm_then"),
            lambda b: b.node("Neg", matmul(b, "x", "W", "b", "mm_else"), out="negative"),
            lambda b: b.weight("W", arrays["W"]),
        )

    case = Case("captured", build, {"x": X, "choice": choice}, {"W": Weight(random(K, N))}, matmuls=2)
    written = check(case, onnxq)
    assert dequant.stored_bytes(written) < K * N


@pytest.mark.parametrize("choice", BOTH, ids=str)
def test_branches_that_use_one_name_for_two_weights(choice, onnxq):
    """Names are local to a branch, so `W` here is not `W` there."""

    def build(arrays):
        return if_model(
            lambda b: matmul(b, "x", b.weight("W", arrays["A"]), "a", "mm"),
            lambda b: matmul(b, "x", b.weight("W", arrays["B"]), "b", "mm"),
        )

    weights = {"A": Weight(random(K, N, seed=1)), "B": Weight(random(K, N, seed=2))}
    check(Case("names", build, {"x": X, "choice": choice}, weights, matmuls=2), onnxq)


@pytest.mark.parametrize("choice", BOTH, ids=str)
def test_captured_weight_behind_a_transpose_outside(choice, onnxq):
    def build(arrays):
        def outer(b):
            b.node("Transpose", b.weight("W", arrays["W"]), out="wt")

        return if_model(
            lambda b: matmul(b, "x", "wt", "a", "mm_then"),
            lambda b: b.node("Relu", matmul(b, "x", "wt", "b", "mm_else"), out="r"),
            outer,
        )

    weights = {"W": Weight(random(N, K), "rows")}
    check(Case("transpose", build, {"x": X, "choice": choice}, weights, matmuls=2), onnxq)


def test_captured_weight_that_the_main_graph_reads_too(onnxq):
    def build(arrays):
        def outer(b):
            b.node("Relu", "x", out="h")
            matmul(b, "x", b.weight("W", arrays["W"]), "z", "mm_main")

        model = if_model(
            lambda b: matmul(b, "x", "W", "a", "mm_then"),
            lambda b: matmul(b, "h", "W", "b", "mm_else"),
            outer,
        )
        model.graph.output.append(helper.make_tensor_value_info("z", FLOAT, (5, N)))
        return model

    weights = {"W": Weight(random(K, N))}
    check(Case("shared", build, {"x": X, "choice": BOTH[0]}, weights, matmuls=3), onnxq)


@pytest.mark.parametrize("choice", BOTH, ids=str)
def test_nested_if_that_captures_from_both_levels(choice, onnxq):
    """A weight of the main graph and one of the outer branch, read two levels down."""

    def inner(b, arrays):
        b.weight("M", arrays["middle"])
        b.node(
            "If",
            "choice",
            out="inner",
            name="if_inner",
            then_branch=branch("then2", lambda c: two_products(c)),
            else_branch=branch("else2", lambda c: matmul(c, "x", "M", "deep_else", "mm3")),
        )
        return "inner"

    def two_products(c):
        matmul(c, "x", "W", "deep1", "mm1")
        return c.node("Add", "deep1", matmul(c, "x", "M", "deep2", "mm2"), out="deep")

    def build(arrays):
        return if_model(
            lambda b: inner(b, arrays),
            lambda b: matmul(b, "x", "W", "shallow", "mm4"),
            lambda b: b.weight("W", arrays["outer"]),
        )

    weights = {"outer": Weight(random(K, N, seed=1)), "middle": Weight(random(K, N, seed=2))}
    check(Case("nested", build, {"x": X, "choice": choice}, weights, matmuls=4), onnxq)


def test_gather_in_a_branch_of_a_table_outside(onnxq):
    ids = np.array([3, 0, 3, 9, 1])

    def build(arrays):
        b = GraphBuilder()
        b.input("ids", (5,), INT64)
        b.input("choice", (), BOOL)
        b.weight("T", arrays["T"])
        then = branch("then", lambda c: c.node("Gather", "T", "ids", out="a", name="g"))
        other = branch("else", lambda c: c.constant("zero", np.zeros((5, N), np.float32)))
        b.node("If", "choice", out="y", name="if", then_branch=then, else_branch=other)
        b.output("y", (5, N))
        return b.model()

    weights = {"T": Weight(random(10, N), "rows")}
    case = Case("table", build, {"ids": ids, "choice": BOTH[0]}, weights, gathers=1)
    check(case, onnxq)


def loop_body(weight, local: bool):
    """h <- tanh(h @ W), three times."""
    b = GraphBuilder()
    b.input("i", (), INT64)
    b.input("go_in", (), BOOL)
    b.input("h_in", (5, K))
    name = b.weight("W", weight) if local else "W"
    b.node("Tanh", matmul(b, "h_in", name, "product", "mm"), out="h_out")
    b.node("Identity", "go_in", out="go_out")
    b.output("go_out", (), BOOL)
    b.output("h_out", (5, K))
    return b.graph("body")


@pytest.mark.parametrize("local", [True, False], ids=["local", "captured"])
def test_loop(local, onnxq):
    def build(arrays):
        b = GraphBuilder()
        b.input("x", (5, K))
        if not local:
            b.weight("W", arrays["W"])
        times, go = b.weight("times", np.array(3)), b.weight("go", np.array(True))
        b.node("Loop", times, go, "x", out="y", name="loop", body=loop_body(arrays["W"], local))
        b.output("y", (5, K))
        return b.model()

    weights = {"W": Weight(random(K, K, scale=0.2))}
    check(Case("loop", build, {"x": X}, weights, matmuls=1), onnxq)


def test_weight_carried_by_a_loop_is_not_constant(onnxq):
    """W enters the loop as a state that each turn changes."""

    def build(arrays):
        c = GraphBuilder()
        c.input("i", (), INT64)
        c.input("go_in", (), BOOL)
        c.input("w_in", (K, N))
        matmul(c, "x", "w_in", "product", "mm")
        c.node("Add", "w_in", "w_in", out="w_out")
        c.node("Identity", "go_in", out="go_out")
        c.output("go_out", (), BOOL)
        c.output("w_out", (K, N))
        c.output("product", (5, N))
        b = GraphBuilder()
        b.input("x", (5, K))
        inputs = b.weight("times", np.array(3)), b.weight("go", np.array(True)), b.weight("W", arrays["W"])
        b.node("Loop", *inputs, out=["last", "y"], name="loop", body=c.graph("body"))
        b.output("y", (3, 5, N))
        return b.model()

    kept = {"W": random(K, N)}
    check(Case("carried", build, {"x": X}, kept=kept, left={"mm": "weight-not-constant"}), onnxq)


@pytest.mark.parametrize("local", [True, False], ids=["local", "captured"])
def test_scan(local, onnxq):
    def build(arrays):
        c = GraphBuilder()
        c.input("state_in", (1, N))
        c.input("row", (1, K))
        name = c.weight("W", arrays["W"]) if local else "W"
        c.node("Add", "state_in", matmul(c, "row", name, "product", "mm"), out="state_out")
        c.node("Identity", "state_out", out="seen")
        c.output("state_out", (1, N))
        c.output("seen", (1, N))
        b = GraphBuilder()
        b.input("x", (5, 1, K))
        if not local:
            b.weight("W", arrays["W"])
        start = b.weight("start", np.zeros((1, N), np.float32))
        b.node("Scan", start, "x", out=["last", "y"], name="scan", body=c.graph("body"), num_scan_inputs=1)
        b.output("last", (1, N))
        b.output("y", (5, 1, N))
        return b.model()

    weights = {"W": Weight(random(K, N))}
    check(Case("scan", build, {"x": X[:, None]}, weights, matmuls=1), onnxq)


# --- local functions

DOMAIN = "test.functions"


def function(name: str, inputs: list[str], nodes: list) -> object:
    imports = [helper.make_opsetid("", 17)]
    return helper.make_function(DOMAIN, name, inputs, ["result"], nodes, imports)


def call_model(functions: list, fill, out_shape=(5, N)):
    b = GraphBuilder()
    b.input("x", (5, K))
    fill(b)
    b.output("y", out_shape)
    return b.model(functions=functions, domains=[DOMAIN])


def test_function_with_its_own_constant(onnxq):
    """Called twice: the codes stand in the function once."""

    def build(arrays):
        nodes = [
            helper.make_node("Constant", [], ["w"], name="w", value=tensor("w", arrays["W"])),
            helper.make_node("MatMul", ["a", "w"], ["result"], name="mm"),
        ]

        def fill(b):
            b.node("Dense", "x", out="h1", domain=DOMAIN)
            b.node("Relu", "x", out="r")
            b.node("Dense", "r", out="h2", domain=DOMAIN)
            b.node("Sub", "h1", "h2", out="y")

        return call_model([function("Dense", ["a"], nodes)], fill)

    written = check(Case("own", build, {"x": X}, {"W": Weight(random(K, N))}, matmuls=1), onnxq)
    assert CONTRIB in {item.domain for item in written.functions[0].opset_import}


def test_function_that_gets_its_weight(onnxq):
    """One body serves two weights: it cannot hold the codes of either."""

    def build(arrays):
        nodes = [helper.make_node("MatMul", ["a", "w"], ["result"], name="mm")]

        def fill(b):
            b.node("Dense", "x", b.weight("A", arrays["A"]), out="h", domain=DOMAIN)
            b.node("Dense", "h", b.weight("B", arrays["B"]), out="y", domain=DOMAIN)

        return call_model([function("Dense", ["a", "w"], nodes)], fill, (5, 16))

    kept = {"A": random(K, N), "B": random(N, 16)}
    case = Case("argument", build, {"x": X}, kept=kept, left={"mm": "weight-not-constant"})
    check(case, onnxq)


def test_function_that_calls_a_function(onnxq):
    def build(arrays):
        inner = [
            helper.make_node("Constant", [], ["w"], name="w", value=tensor("w", arrays["W"])),
            helper.make_node("MatMul", ["a", "w"], ["result"], name="mm"),
        ]
        outer = [
            helper.make_node("Inner", ["a"], ["h"], name="call", domain=DOMAIN),
            helper.make_node("Tanh", ["h"], ["result"], name="tanh"),
        ]
        calling = function("Outer", ["a"], outer)
        calling.opset_import.append(helper.make_opsetid(DOMAIN, 1))

        def fill(b):
            b.node("Outer", "x", out="y", domain=DOMAIN)

        return call_model([function("Inner", ["a"], inner), calling], fill)

    check(Case("nested", build, {"x": X}, {"W": Weight(random(K, N))}, matmuls=1), onnxq)


def test_constant_of_a_function_made_by_a_reference_attribute(onnxq):
    """`value` comes from the caller, so two calls may give two weights."""

    def build(arrays):
        constant = helper.make_node("Constant", [], ["w"], name="w")
        reference = helper.make_attribute_ref("value", AttributeProto.TENSOR)
        reference.ref_attr_name = "weight"
        constant.attribute.append(reference)
        nodes = [constant, helper.make_node("MatMul", ["a", "w"], ["result"], name="mm")]
        dense = function("Dense", ["a"], nodes)
        dense.attribute.append("weight")

        def fill(b):
            b.node("Dense", "x", out="h", domain=DOMAIN, weight=tensor("A", arrays["A"]))
            b.node("Dense", "h", out="y", domain=DOMAIN, weight=tensor("B", arrays["B"]))

        return call_model([dense], fill, (5, 16))

    kept = {"A": random(K, N), "B": random(N, 16)}
    case = Case("reference", build, {"x": X}, kept=kept, left={"mm": "weight-not-constant"})
    check(case, onnxq)
