//! Nodes that could be half and stay float because of what they compute: arithmetic on
//! whole numbers, and squares that are summed.

use crate::{
    infer::Kind,
    ir::{DataType, Node, NodeId, SideTable, Use, ValueId},
    pass::Reason,
    target::rotated_operands,
    weights::{float_elements, source_tensor},
};

use super::survey::{Survey, Want};

/// Lets the islands of `survey` stay float.
pub(super) fn leave(survey: &mut Survey<'_>) {
    whole_numbers(survey);
    squares(survey);
    integer_products(survey);
    rotated(survey);
}

/// How a float value is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Made {
    /// Of something else.
    Otherwise,
    /// Of small constants only.
    OfConstants,
    /// Of whole numbers and small constants.
    OfWholeNumbers,
}

/// Operators that compute with numbers, or rearrange them, without mixing in weights. The
/// data of `Gather` must be such numbers: with a constant it is an embedding.
const ARITHMETIC: [&str; 45] = [
    "Abs",
    "Add",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Cos",
    "CumSum",
    "Div",
    "Einsum",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Identity",
    "Log",
    "MatMul",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Pad",
    "Pow",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "Reshape",
    "Round",
    "Sign",
    "Sin",
    "Slice",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// Operators that make whole numbers of any.
const ROUNDING: [&str; 3] = ["Ceil", "Floor", "Round"];
/// Operators for which the exact operand counts: half has a step of 1 at 1000.
const ANGLES: [&str; 3] = ["Sin", "Cos", "Tan"];
const COMPARISONS: [&str; 5] = ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"];

fn one_of(node: &Node, operators: &[&str]) -> bool {
    node.domain().is_empty() && operators.contains(&&*node.op_type)
}

/// Leaves what lies between whole numbers and an operator for which their exact value counts.
fn whole_numbers(survey: &mut Survey<'_>) {
    let made = origins(survey);
    let mut work = Vec::new();
    for node in survey.nodes.clone() {
        let n = &survey.model.nodes[node];
        let operands = float_operands(survey, n);
        let all = operands.iter().all(|&(_, v)| made[v] > Made::Otherwise);
        let any = |v: &[(usize, ValueId)]| v.iter().any(|o| made[o.1] == Made::OfWholeNumbers);
        if one_of(n, &ANGLES) || one_of(n, &COMPARISONS) {
            if all && any(&operands) {
                work.push(node);
            }
            continue;
        }
        let to_integer =
            n.is("Cast") && !n.outputs.iter().flatten().any(|&v| is_floating(survey, v));
        for (slot, value) in operands {
            let exact = to_integer && !is_bool(survey, n.output(0))
                || survey.stays(node)
                || survey.operand(node, slot) == Want::Float;
            if exact && made[value] == Made::OfWholeNumbers {
                work.extend(survey.model.producer(value));
            }
        }
    }
    let mut seen = SideTable::<NodeId, bool>::new(false);
    while let Some(node) = work.pop() {
        if !seen.insert(node) {
            continue;
        }
        let n = &survey.model.nodes[node];
        if !one_of(n, &ROUNDING) {
            let operands = float_operands(survey, n).into_iter();
            let inside = operands.filter(|&(_, v)| made[v] > Made::Otherwise);
            work.extend(inside.filter_map(|(_, v)| survey.model.producer(v)));
        }
        // A cast makes what its users want.
        if survey.follows_users(node) {
            continue;
        }
        let message = "whole numbers, or angles made of them, stay exact";
        survey.leave(node, Reason::WholeNumbers, message, 0);
    }
}

/// Leaves what scales a product of integers: the sums are far beyond half's range before that, and the
/// product of both scales may be below it.
fn integer_products(survey: &mut Survey<'_>) {
    const PRODUCTS: [&str; 2] = ["MatMulInteger", "ConvInteger"];
    let model = survey.model;
    for node in survey.nodes.clone() {
        let n = &model.nodes[node];
        let made = n.input(0).and_then(|v| model.producer(v));
        if !n.is("Cast") || !made.is_some_and(|m| one_of(&model.nodes[m], &PRODUCTS)) {
            continue;
        }
        let uses = n.outputs.iter().flatten();
        let uses: Vec<Use> = uses
            .flat_map(|&v| survey.uses.of_value(v).to_vec())
            .collect();
        for u in uses {
            let Use::Operand(reader, _) = u else {
                continue;
            };
            let scales = model.nodes[reader].inputs.iter().flatten();
            let scales = scales.filter_map(|&v| model.producer(v));
            let scales = scales.filter(|&m| model.nodes[m].is("Mul"));
            for left in std::iter::once(reader).chain(scales.collect::<Vec<_>>()) {
                let message = "sums of integers leave half's range before they are scaled";
                survey.leave(left, Reason::HalfRange, message, 0);
            }
        }
    }
}

/// Leaves Transposes that ONNX Runtime cannot load in half beside a product of them.
fn rotated(survey: &mut Survey<'_>) {
    for node in survey.nodes.clone() {
        let n = &survey.model.nodes[node];
        if !n.is("MatMul") {
            continue;
        }
        for rotated in rotated_operands(survey.model, n) {
            let message = "ONNX Runtime ends while it loads this in half and a product of it";
            survey.leave(rotated.transpose, Reason::Target, message, 0);
        }
    }
}

/// How each float value is made.
fn origins(survey: &Survey<'_>) -> SideTable<ValueId, Made> {
    let mut made = SideTable::new(Made::Otherwise);
    for &graph in &survey.graphs {
        for &value in &survey.model.graphs[graph].initializers {
            if survey.is_small_constant(value) {
                made[value] = Made::OfConstants;
            }
        }
    }
    for &node in &survey.nodes {
        let n = &survey.model.nodes[node];
        let found = match &*n.op_type {
            _ if !n.domain().is_empty() => Made::Otherwise,
            "Cast" if n.input(0).is_some_and(|v| is_whole(survey, v)) => Made::OfWholeNumbers,
            "Range" | "Ceil" | "Floor" | "Round" => Made::OfWholeNumbers,
            "Constant" if n.output(0).is_some_and(|v| survey.is_small_constant(v)) => {
                Made::OfConstants
            }
            "ConstantOfShape" => Made::OfConstants,
            "Gather" if n.input(0).is_none_or(|v| made[v] < Made::OfWholeNumbers) => {
                Made::Otherwise
            }
            _ if one_of(n, &ARITHMETIC) => {
                let operands = float_operands(survey, n);
                let least = operands.iter().map(|&(_, v)| made[v]).min();
                match least {
                    None | Some(Made::Otherwise) => Made::Otherwise,
                    _ => operands
                        .iter()
                        .map(|&(_, v)| made[v])
                        .max()
                        .unwrap_or(Made::Otherwise),
                }
            }
            _ => Made::Otherwise,
        };
        for &value in n.outputs.iter().flatten() {
            if survey.is_float(value) {
                made[value] = found;
            }
        }
    }
    made
}

fn float_operands(survey: &Survey<'_>, node: &Node) -> Vec<(usize, ValueId)> {
    let operands = node.inputs.iter().enumerate();
    operands
        .filter_map(|(i, v)| Some((i, (*v)?)))
        .filter(|&(_, v)| survey.is_float(v))
        .collect()
}

fn dtype(survey: &Survey<'_>, value: ValueId) -> Option<DataType> {
    match survey.kinds[value] {
        Some(Kind::Tensor(dtype)) => Some(dtype),
        _ => None,
    }
}

fn is_floating(survey: &Survey<'_>, value: ValueId) -> bool {
    dtype(survey, value).is_none_or(DataType::is_float)
}

fn is_bool(survey: &Survey<'_>, value: Option<ValueId>) -> bool {
    value.and_then(|v| dtype(survey, v)) == Some(DataType::Bool)
}

/// Whether `value` is an integer or a truth value.
fn is_whole(survey: &Survey<'_>, value: ValueId) -> bool {
    use DataType::{Bool, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64};
    let whole = [
        Bool, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64,
    ];
    dtype(survey, value).is_some_and(|d| whole.contains(&d))
}

/// Operators that take a sum of squares to the root of it, one number a row.
const TO_THE_ROOT: [&str; 12] = [
    "Add",
    "Cast",
    "Clip",
    "Div",
    "Identity",
    "Max",
    "Mul",
    "Pow",
    "Reciprocal",
    "ReduceMean",
    "ReduceSum",
    "Sqrt",
];

/// Leaves squares that are summed, and what follows up to the last operator that has no
/// other operand than constants.
fn squares(survey: &mut Survey<'_>) {
    let mut wide = SideTable::<ValueId, bool>::new(false);
    let mut constant = SideTable::<ValueId, bool>::new(false);
    for node in survey.nodes.clone() {
        let n = &survey.model.nodes[node];
        let operands = float_operands(survey, n);
        let mut is_constant = |v: ValueId| {
            constant[v] = constant[v] || survey.is_small_constant(v);
            constant[v]
        };
        let follows = one_of(n, &TO_THE_ROOT)
            && operands.iter().any(|&(_, v)| wide[v])
            && operands.iter().all(|&(_, v)| wide[v] || is_constant(v));
        if !follows && !is_summed_square(survey, n) {
            continue;
        }
        for &value in n.outputs.iter().flatten() {
            wide[value] = true;
        }
        if !survey.follows_users(node) {
            let message = "squares that are summed leave half's range";
            survey.leave(node, Reason::HalfRange, message, 0);
        }
    }
}

/// Whether `node` squares its operand and a sum or mean reads the result, or does both.
fn is_summed_square(survey: &Survey<'_>, node: &Node) -> bool {
    let output = node.output(0).filter(|&v| survey.is_float(v));
    let Some(output) = output else { return false };
    if node.is("ReduceSumSquare") {
        return true;
    }
    let squares = match node.is("Pow") {
        true => node.input(1).is_some_and(|v| is_two(survey, v)),
        false => node.is("Mul") && node.input(0) == node.input(1),
    };
    let sums = |u: &Use| match u {
        Use::Operand(user, 0) => one_of(&survey.model.nodes[*user], &["ReduceMean", "ReduceSum"]),
        _ => false,
    };
    squares && survey.uses.of_value(output).iter().any(sums)
}

/// Whether `value` is the constant 2.
fn is_two(survey: &Survey<'_>, value: ValueId) -> bool {
    let Some(tensor) = source_tensor(survey.model, value) else {
        return false;
    };
    let two = |elements: &Vec<f32>| elements[..] == [2.0];
    let single = tensor.element_count() == Some(1);
    match tensor.dtype {
        // An exponent that cannot be read fails when it is written.
        _ if single && tensor.dtype.is_float() => {
            matches!(float_elements(tensor), Ok(Some(e)) if two(&e))
        }
        DataType::Int64 | DataType::Int32 => {
            matches!(crate::weights::int_elements(survey.model, value), Ok(Some(e)) if e[..] == [2])
        }
        _ => false,
    }
}
