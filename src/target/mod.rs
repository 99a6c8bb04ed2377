//! What runtimes do with models: which operators in which form each version runs, refuses,
//! runs slowly, or gets wrong.
//!
//! A pass asks before it emits, `onnxq verify --target` asks about every node of a model. Both
//! build a [`Form`] (an operator with the types, attributes and sizes that matter) and get a
//! [`Verdict`], with the reason and how it is known.
//!
//! ```
//! use onnxq::{ir::DataType, target::{Form, Targets, Verdict, ZeroPoints}};
//!
//! let targets = Targets::parse(["onnxruntime@1.21"]).unwrap();
//! let eight_bits = Form::matmul_nbits(8, 32, DataType::Float, ZeroPoints::Absent, 4);
//! let Verdict::Refused(because) = targets.verdict(&eight_bits) else { panic!() };
//! assert_eq!(because.target.to_string(), "onnxruntime@1.21");
//! ```

mod check;
mod derive;
mod form;
mod kernels;
mod onnxruntime;
mod runtime;
mod table;
#[cfg(test)]
mod tests;
mod verdict;

use std::fmt;

pub(crate) use derive::rotated_operands;

pub use check::{Assessment, Finding, NotKnown, check, oldest_onnxruntime};
pub use form::{Facet, Form, ZeroPoints};
pub use runtime::{Runtime, Target, Version};
pub use table::{Effect, Row, rows};
pub use verdict::{Because, Verdict};

use crate::Result;

/// The runtimes that a model has to run on, all of them. None named: no demand is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets(Vec<Target>);

impl Targets {
    /// Reads targets such as `onnxruntime@1.20`; one text may hold several, separated by
    /// commas. Without a version it is the newest known.
    ///
    /// # Errors
    /// A name or version is not known; the message lists those that are.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Targets> {
        let mut targets = Vec::new();
        for text in texts.into_iter().flat_map(|t| t.split(',')) {
            let target = Target::parse(text.trim())?;
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        Ok(Targets(targets))
    }

    /// The targets, in the order in which they were named.
    pub fn iter(&self) -> impl Iterator<Item = Target> + '_ {
        self.0.iter().copied()
    }

    /// Whether none was named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest version of the model's format that every target loads; `None` when
    /// no target has a known limit.
    pub fn max_ir(&self) -> Option<i64> {
        self.limits().map(|l| l.ir).min()
    }

    /// The newest version of the default domain that every target loads, as
    /// [`Targets::max_ir`].
    pub fn max_opset(&self) -> Option<i64> {
        self.limits().map(|l| l.opset).min()
    }

    fn limits(&self) -> impl Iterator<Item = &'static table::Limit> + '_ {
        self.iter().filter_map(Target::limit)
    }
}

impl Target {
    /// The newest versions of the model's format and of the default domain that it loads, when
    /// known.
    pub fn newest_formats(self) -> Option<(i64, i64)> {
        self.limit().map(|l| (l.ir, l.opset))
    }

    fn limit(self) -> Option<&'static table::Limit> {
        let limits = &table::table().limits;
        let found = limits.iter().find(|l| l.versions.contains(self.version));
        found.filter(|_| self.runtime.is_onnxruntime())
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, target) in self.iter().enumerate() {
            write!(f, "{}{target}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
