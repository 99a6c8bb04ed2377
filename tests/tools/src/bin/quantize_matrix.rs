//! Quantizes a raw little-endian matrix, for comparing the kernels with other programs.
//!
//! ```text
//! quantize_matrix INPUT ROWS COLS f32|f16|bf16|f64 rows|columns BITS BLOCK sym|asym|float f32|f16|bf16 PREFIX
//!                 [rtn|mse|hqq [IMPORTANCE]]
//! ```
//!
//! `rows` takes `[n, k]`, `columns` `[k, n]`; `float` is asymmetric with zero points of the scales' type.
//! IMPORTANCE is a file of k `f32`. Writes `PREFIX.codes`, `PREFIX.scales` and `PREFIX.zp`.

use std::error::Error;
use std::fs;

use onnxq::quant::{
    BlockSpec, Buffers, Matrix, Method, Needs, Out, Rule, ScaleType, Source, quantize_columns_by,
    quantize_rows_by,
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [
        input,
        rows,
        cols,
        dtype,
        axis,
        bits,
        block,
        symmetry,
        scale,
        prefix,
        ref how @ ..,
    ] = args[..]
    else {
        return Err("ten arguments or more; see the source".into());
    };
    let method: Method = how.first().map_or(Ok(Method::Rtn), |name| name.parse())?;
    if method.needs() != Needs::Nothing {
        return Err("the method is rtn, mse or hqq".into());
    }
    let importance = how.get(1).map(fs::read).transpose()?;
    let importance = importance.map(|bytes| -> Vec<f32> {
        let (numbers, _) = bytes.as_chunks();
        numbers.iter().map(|b| f32::from_le_bytes(*b)).collect()
    });
    let rule = Rule {
        method: method.of_blocks(),
        importance: importance.as_deref(),
    };
    let (rows, cols): (usize, usize) = (rows.parse()?, cols.parse()?);
    let symmetric = match symmetry {
        "sym" => true,
        "asym" | "float" => false,
        _ => return Err("symmetry is sym, asym or float".into()),
    };
    let scale = match scale {
        "f32" => ScaleType::F32,
        "f16" => ScaleType::F16,
        "bf16" => ScaleType::BF16,
        _ => return Err("the scale type is f32, f16 or bf16".into()),
    };
    let spec = BlockSpec::new(bits.parse()?, block.parse()?, symmetric, scale)?;
    let spec = match symmetry {
        "float" => spec.with_float_zero_points(),
        _ => spec,
    };
    let bytes = fs::read(input)?;
    let source = match dtype {
        "f32" => Source::F32Le(&bytes),
        "f16" => Source::F16Le(&bytes),
        "bf16" => Source::Bf16Le(&bytes),
        "f64" => Source::F64Le(&bytes),
        _ => return Err("the element type is f32, f16, bf16 or f64".into()),
    };
    if source.len() != rows * cols {
        return Err(format!("{} elements for [{rows}, {cols}]", source.len()).into());
    }
    let (n, k, quantize): (_, _, fn(&_, &_, _, Out<'_>) -> _) = match axis {
        "rows" => (rows, cols, quantize_rows_by),
        "columns" => (cols, rows, quantize_columns_by),
        _ => return Err("the axis is rows or columns".into()),
    };
    let mut buffers = Buffers::new(&spec, n, k);
    quantize(&spec, &rule, Matrix::new(source, rows, cols), buffers.out())?;
    fs::write(format!("{prefix}.codes"), buffers.codes)?;
    fs::write(format!("{prefix}.scales"), buffers.scales)?;
    fs::write(format!("{prefix}.zp"), buffers.zero_points)?;
    Ok(())
}
