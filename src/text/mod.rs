//! stub
#![allow(missing_docs)]
#[derive(Default)]
pub struct PrintOptions {}
pub fn print(_: &crate::ir::Model, _: &PrintOptions) -> String {
    String::new()
}
