//! ONNX's textual syntax: [`print()`] and [`parse`] are inverses of each other.
//!
//! For `--print-ir-after` and for the file tests. The syntax is that of `onnx.parser` and
//! `onnx.printer` (ONNX 1.23):
//!
//! ```text
//! <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
//! main (float[batch,4] x) => (float[batch,2] y)
//! <float[4,2] "layer/W" = {1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0}, float[batch,2] h>
//! {
//!    [mm] h = MatMul (x, "layer/W")         # names that are no identifiers are quoted
//!    y = Clip <axis = 1> (h, "", "")        # "" is an absent operand
//! }
//! ```
//!
//! ```
//! use onnxq::text::{PrintOptions, parse, print};
//!
//! let model = parse("g (float[N] x) => (float[N] y) { y = Relu (x) }")?;
//! let text = print(&model, &PrintOptions::default());
//! assert!(text.contains("   y = Relu (x)\n"));
//! assert_eq!(print(&parse(&text)?, &PrintOptions::default()), text);
//! # Ok::<(), onnxq::error::Error>(())
//! ```
//!
//! # What only onnxq reads and writes
//!
//! ONNX's syntax has no words for some things. Where these occur, the printer writes:
//!
//! | thing | form |
//! |---|---|
//! | 16-bit floats | decimals with a point or exponent: `float16[2] {0.5,-inf}`; integers are bit patterns, as in ONNX |
//! | types below a byte | one integer an element; as many integers as there are packed bytes are read as those bytes, as in ONNX |
//! | a NaN that is not the default one | its bits: `nan(0x7fa00001)` |
//! | deterministic filler | `float[64,32] W = {ramp(3)}`; see below |
//! | elided elements | `{...}`; cannot be read back |
//! | strings that are not UTF-8 | `b"\xff\x00"` |
//! | sparse tensors | `sparse_tensor(float[9]) = {values: float[1] {2.0}, indices: int64[1] {4}}`; as an initializer with the name before `=` |
//! | doc strings, metadata and whatever else hangs on an entity | `@{doc_string: "...", metadata_props: ["k": "v"]}` after a value's name, a tensor's elements, an attribute's value, a node, or a graph's values |
//! | the same of a model or function | further keys of its header |
//! | denotations | `float[N:"DATA_BATCH",3]:"IMAGE"` |
//! | a type that is not told | `?` for an element type, `?()` for a type without content, `seq()`, `optional()`, `map(?,)` |
//! | an opset without version | `"" : ?` |
//! | names where ONNX takes identifiers only | quoted: domains, operators, overloads, attributes, subgraphs, tensors in attributes |
//!
//! Without [`PrintOptions::extensions`] what hangs on an entity is left out, and so are
//! names of tensors in attributes that need quotes (nothing refers to them); 16-bit and
//! smaller types are printed as ONNX reads them, and NaNs lose their bits. Then
//! `onnx.parser` reads the text of any model that does not need the other rows. It drops
//! the elements of lists of tensors, graphs and types: the syntax has them, that parser
//! ignores them.
//!
//! `ramp(seed)` with a seed from 0 to 250 stands for values from -125 to 125 in a fixed
//! order: element `i` is `(97 i + 31 seed) mod 251 - 125`; in floating-point types that
//! over 128, in unsigned types that plus 125. It has all types of 8 to 64 bits except
//! bool, complex64 and the 8-bit floats. The printer recognizes it, so a weight that
//! a pass leaves alone stays one word.
//!
//! # Limits
//!
//! What the wire format can say in two ways is not kept apart: absent and empty strings,
//! `raw_data` and typed fields, attributes without their type. Data in side files is
//! printed by value; the parser does not open files.

mod cursor;
mod elements;
mod names;
mod parse;
mod parse_value;
mod print;
mod print_value;
mod ramp;

pub use parse::parse;
pub use print::{PrintOptions, print, write};
