//! Nodes that keep the contracts, and nodes that break one rule.

mod operators;

use super::*;
use crate::{
    ir::{Data, Def},
    verify::{
        tests::{Build, opset},
        verify,
    },
};

fn zeros(dtype: DataType, dims: &[i64]) -> Tensor {
    let count = element_count(dims).expect("small");
    let bytes = dtype.byte_len(count).expect("small");
    let data = Data::Bytes(vec![0; bytes as usize].into());
    Tensor::new(dtype, dims.to_vec(), data)
}

/// One operand: a constant, absent, or a constant behind a `Reshape` to the shape.
#[derive(Clone)]
enum Operand {
    Constant(DataType, Vec<i64>),
    Reshaped(DataType, Vec<i64>, Vec<i64>),
    Absent,
}
use DataType::{Double, Float, Float16, Int8, Int32, Int64, Uint4, Uint8};
use Operand::{Absent, Constant, Reshaped};

fn model(op: &str, attributes: &[(&str, i64)], activation: usize, operands: &[Operand]) -> Model {
    let mut b = Build(Model::new(10, 21));
    b.0.opset_imports.push(opset("com.microsoft", 1));
    let main = b.0.main;
    let x = b.input(main, "x");
    let dtype = if op == "MatMulNBits" { Float } else { Int64 };
    let ty = crate::ir::Type::tensor(dtype, &[2, 40]);
    b.0.values[x].info.as_mut().expect("an input has a type").ty = Some(ty);
    let mut inputs: Vec<Option<ValueId>> = Vec::new();
    for (i, operand) in operands.iter().enumerate() {
        inputs.push(match operand {
            Absent => None,
            Constant(dtype, dims) => {
                Some(b.initializer(main, &format!("c{i}"), zeros(*dtype, dims)))
            }
            Reshaped(dtype, dims, shape) => {
                let c = b.initializer(main, &format!("c{i}"), zeros(*dtype, dims));
                let shape = Tensor::from_i64(vec![shape.len() as i64], shape);
                let shape = b.initializer(main, &format!("s{i}"), shape);
                Some(b.node(main, "Reshape", &[c, shape], &format!("r{i}")).1)
            }
        });
    }
    inputs.insert(activation, Some(x));
    let (node, y) = b.node(main, &format!("com.microsoft::{op}"), &[], "y");
    b.0.nodes[node].inputs = inputs;
    assert_eq!(b.0.values[y].def, Def::Node(node, 0));
    for (name, value) in attributes {
        b.attribute(node, name, AttributeValue::Int(*value));
    }
    b.output(main, y);
    b.0
}

/// The messages of all faults.
fn fault(model: &Model) -> String {
    match verify(model) {
        Ok(()) => String::new(),
        Err(v) => {
            let texts: Vec<_> = v.as_slice().iter().map(ToString::to_string).collect();
            texts.join("; ")
        }
    }
}

#[test]
fn matmul_nbits_contract() {
    // K = 40 in blocks of 16: three, of which the last is padded. N = 8.
    let codes = || Constant(Uint8, vec![8, 3, 8]);
    let scales = || Constant(Float, vec![8, 3]);
    let with = |slot: usize, operand: Operand| {
        let mut operands = vec![codes(), scales()];
        operands.resize(usize::max(2, slot), Absent);
        operands.splice(slot - 1..operands.len().min(slot), [operand]);
        operands
    };
    let usual = [("K", 40), ("N", 8), ("block_size", 16)];
    let cases: &[(Vec<Operand>, &str)] = &[
        (vec![codes(), scales()], ""),
        (with(2, Constant(Float, vec![24])), ""),
        (with(3, Constant(Uint8, vec![8, 2])), ""),
        (with(3, Constant(Uint8, vec![16])), ""),
        (with(3, Constant(Float, vec![8, 3])), ""),
        (with(4, Constant(Int32, vec![48])), ""),
        (with(5, Constant(Float, vec![8])), ""),
        (with(1, Reshaped(Uint8, vec![8, 24], vec![8, 3, 8])), ""),
        (with(1, Reshaped(Uint8, vec![8, 24], vec![0, -1, 8])), ""),
        (
            with(1, Constant(Uint8, vec![8, 24])),
            "`B` has shape [8, 24]; expected [8, 3, 8]",
        ),
        (
            with(1, Reshaped(Uint8, vec![8, 24], vec![8, 8, 3])),
            "`B` has shape [8, 8, 3]; expected [8, 3, 8]",
        ),
        (
            with(1, Constant(Int8, vec![8, 3, 8])),
            "`B` is int8; expected uint8",
        ),
        (with(1, Absent), "input 1, `B`, is missing"),
        (
            with(2, Constant(Float, vec![3, 8])),
            "`scales` has shape [3, 8]; expected [8, 3] or [24]",
        ),
        (
            with(2, Constant(Float16, vec![8, 3])),
            "`A` is float; expected float16",
        ),
        (
            with(2, Constant(Double, vec![8, 3])),
            "`scales` is double; expected float or float16 or bfloat16",
        ),
        (
            with(3, Constant(Uint8, vec![8, 3])),
            "`zero_points` has shape [8, 3]; expected [8, 2] or [16]",
        ),
        (
            with(3, Constant(Int8, vec![8, 3])),
            "`zero_points` is int8; expected uint8 or float",
        ),
        (
            with(4, Constant(Int64, vec![40])),
            "`g_idx` is int64; expected int32",
        ),
        (
            with(5, Constant(Float, vec![1, 8])),
            "`bias` has shape [1, 8]; expected [8]",
        ),
    ];
    for (operands, message) in cases {
        let found = fault(&model("MatMulNBits", &usual, 0, operands));
        assert!(
            found.contains(message) && found.is_empty() == message.is_empty(),
            "{found}"
        );
    }
    let attributes: &[(&[(&str, i64)], &str)] = &[
        (&[("N", 8), ("block_size", 16)], "attribute `K` is missing"),
        (
            &[("K", 40), ("N", 0), ("block_size", 16)],
            "attribute `N` is 0",
        ),
        (&[("K", 40), ("N", 8)], "attribute `block_size` is missing"),
        (
            &[("K", 40), ("N", 8), ("block_size", 24)],
            "attribute `block_size` is 24; expected a power of two from 16 on",
        ),
        (
            &[("K", 40), ("N", 8), ("block_size", 16), ("bits", 3)],
            "attribute `bits` is 3",
        ),
        (
            &[
                ("K", 40),
                ("N", 8),
                ("block_size", 16),
                ("accuracy_level", 5),
            ],
            "attribute `accuracy_level` is 5; expected 0 to 4",
        ),
        (
            &[("K", 48), ("N", 8), ("block_size", 16)],
            "`A` is float[2,40]; expected a last axis of `K` = 48",
        ),
        (
            &[("K", i64::MAX), ("N", i64::MAX), ("block_size", 1 << 62)],
            "expected a weight of fewer than 2^63 elements",
        ),
    ];
    for (attributes, message) in attributes {
        let found = fault(&model("MatMulNBits", attributes, 0, &[codes(), scales()]));
        assert!(found.contains(message), "{found}");
    }
}

#[test]
fn gather_block_quantized_contract() {
    // Rows of 40 in blocks of 16: three scales a row.
    let table = |dtype, dims: &[i64], scales: &[i64]| {
        vec![
            Constant(dtype, dims.to_vec()),
            Constant(Float, scales.to_vec()),
        ]
    };
    let with = |mut operands: Vec<Operand>, zeros: Operand| {
        operands.push(zeros);
        operands
    };
    let block = ("block_size", 16);
    type Case<'a> = (Vec<Operand>, &'a [(&'a str, i64)], &'a str);
    let cases: &[Case<'_>] = &[
        (table(Uint8, &[9, 20], &[9, 3]), &[block], ""),
        (
            table(Uint8, &[9, 20], &[9, 3]),
            &[block, ("quantize_axis", -1)],
            "",
        ),
        (table(Uint8, &[9, 40], &[9, 3]), &[block, ("bits", 8)], ""),
        (table(Uint4, &[9, 40], &[9, 3]), &[block], ""),
        (
            table(Uint4, &[48, 9], &[3, 9]),
            &[block, ("gather_axis", 1), ("quantize_axis", 0)],
            "",
        ),
        (
            with(table(Uint8, &[9, 20], &[9, 3]), Constant(Uint8, vec![9, 2])),
            &[block],
            "",
        ),
        (
            with(table(Uint4, &[9, 40], &[9, 3]), Constant(Uint4, vec![9, 3])),
            &[block],
            "",
        ),
        (table(Uint8, &[9, 20], &[9, 1]), &[], ""),
        (
            table(Uint8, &[9, 20], &[27]),
            &[block],
            "`scales` has shape [27]; expected [9, 3]",
        ),
        (
            with(table(Uint8, &[9, 20], &[9, 3]), Constant(Uint8, vec![9, 3])),
            &[block],
            "`zero_points` has shape [9, 3]; expected [9, 2]",
        ),
        (
            with(table(Uint8, &[9, 20], &[9, 3]), Constant(Uint4, vec![9, 3])),
            &[block],
            "`zero_points` is uint4; expected uint8",
        ),
        (
            table(Uint8, &[9, 20], &[9, 3]),
            &[block, ("gather_axis", 1), ("quantize_axis", 0)],
            "`gather_axis` 1, `quantize_axis` 0 for uint8 data; expected 0 and 1",
        ),
        (
            table(Uint4, &[9, 40], &[9, 3]),
            &[block, ("gather_axis", 1)],
            "`gather_axis` and `quantize_axis` are both 1",
        ),
        (
            table(Uint4, &[9, 40], &[9, 3]),
            &[block, ("quantize_axis", 2)],
            "attribute `quantize_axis` is 2; expected an axis of `data`",
        ),
        (
            table(Float, &[9, 40], &[9, 3]),
            &[block],
            "`data` is float; expected int4 or uint4 or uint8",
        ),
        (
            table(Uint8, &[9, 20], &[9, 5]),
            &[("block_size", 8)],
            "attribute `block_size` is 8",
        ),
    ];
    for (operands, attributes, message) in cases {
        let found = fault(&model("GatherBlockQuantized", attributes, 1, operands));
        assert!(
            found.contains(message) && found.is_empty() == message.is_empty(),
            "{found}"
        );
    }
}
