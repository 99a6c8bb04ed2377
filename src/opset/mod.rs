//! Moves a model to a newer opset.
//!
//! A node whose operator has newer versions goes from each to the next. Where the meaning or the form
//! changed there is a rule (`rules`); where the schemas differ only in what more is allowed, the
//! node stays as it is (`unchanged`); any other node is an obstacle. It is all or nothing: a
//! model with an obstacle is left as it is. So are functions of the model, which import operators for
//! themselves and are converted with it.
//!
//! ```
//! use onnxq::opset::Conversion;
//!
//! let mut model = onnxq::text::parse(
//!     "<ir_version: 6, opset_import: [\"\" : 11]>
//!      g (float[2,1] x) => (float[2] y) { y = Squeeze <axes = [1]> (x) }",
//! )?;
//! let done = onnxq::opset::convert(&mut model, "", 21)?;
//! assert_eq!(done, Conversion::Done { nodes: 1, imports: 1 });
//! assert_eq!(model.opset(model.main, ""), Some(21));
//! # Ok::<(), onnxq::Error>(())
//! ```

mod commit;
mod draft;
mod ir_version;
mod rules;
mod unchanged;

use crate::{
    error::{Error, Result},
    infer::{self, Facts},
    ir::{Callees, Model, NodeId},
    schema::{self, OpSchema},
};

pub use ir_version::ir_version_of;

use draft::Draft;

/// A node that cannot be converted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The node.
    pub node: NodeId,
    /// What was found and what was expected.
    pub message: String,
}

/// What came of a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// The model is converted; it may have been new enough.
    Done {
        /// How many nodes have another form now.
        nodes: usize,
        /// How many imports have another version now: that of the model, those of functions.
        imports: usize,
    },
    /// The model is as it was, for these reasons, in document order.
    Impossible(Vec<Obstacle>),
}

/// Converts `model` from the version of `domain` that it imports to version `to`, and its functions
/// that import an older one. Imports of that version or a newer one, and models that do not
/// import the domain, are left. The IR version becomes at least the one that was
/// released with the opset; from version 4 on constants are no inputs, so those that were
/// listed as such are not any more.
///
/// # Errors
/// `to` is no version that is known, or a small constant that a rule needs cannot be read.
pub fn convert(model: &mut Model, domain: &str, to: i64) -> Result<Conversion> {
    let domain = schema::canonical_domain(domain);
    let newest = schema::newest_opset(domain).unwrap_or(0);
    if !(1..=newest).contains(&to) {
        let shown = if domain.is_empty() { "ai.onnx" } else { domain };
        return Err(Error::input(format!(
            "opset {to} of `{shown}`; expected 1 to {newest}"
        )));
    }
    if !is_older(model, domain, to) {
        return Ok(Conversion::Done {
            nodes: 0,
            imports: 0,
        });
    }
    let plan = Plan::of(model, domain, to)?;
    if !plan.obstacles.is_empty() {
        return Ok(Conversion::Impossible(plan.obstacles));
    }
    let nodes = plan.drafts.len();
    let imports = commit::commit(model, domain, to, plan.drafts);
    Ok(Conversion::Done { nodes, imports })
}

/// Whether `model`, or a function of it, imports a version of `domain` before `to`.
pub fn is_older(model: &Model, domain: &str, to: i64) -> bool {
    let domain = schema::canonical_domain(domain);
    let imports = model.opset_imports.iter();
    let functions = model.functions.iter().flat_map(|f| &f.opset_imports);
    let mut versions = imports.chain(functions).filter(|o| o.domain() == domain);
    versions.any(|o| o.version.is_some_and(|v| v < to))
}

/// What a rule may ask about the node that it changes.
struct At<'m> {
    model: &'m Model,
    facts: &'m Facts,
    /// The version that it will have in the end.
    to: i64,
}

/// What becomes of the nodes.
#[derive(Default)]
struct Plan {
    /// The new forms of those that change.
    drafts: Vec<(NodeId, Draft)>,
    obstacles: Vec<Obstacle>,
}

impl Plan {
    fn of(model: &Model, domain: &str, to: i64) -> Result<Plan> {
        let facts = infer::facts(model);
        let callees = Callees::of(&model.functions);
        let at = At {
            model,
            facts: &facts,
            to,
        };
        let mut plan = Plan::default();
        for node in model.reachable_nodes() {
            let n = &model.nodes[node];
            if n.domain() != domain || callees.called(n).is_some() {
                continue;
            }
            let Some(from) = model.opset(n.graph, domain).filter(|&from| from < to) else {
                continue;
            };
            let mut draft = Draft::of(n);
            match at.through(&mut draft, domain, from)? {
                Ok(()) if draft.changed => plan.drafts.push((node, draft)),
                Ok(()) => {}
                Err(message) => plan.obstacles.push(Obstacle { node, message }),
            }
        }
        Ok(plan)
    }
}

impl At<'_> {
    /// Takes `draft` through all versions of its operator. The inner error says why not.
    fn through(&self, draft: &mut Draft, domain: &str, from: i64) -> Result<Result<(), String>> {
        let Some(mut schema) = schema::lookup(domain, &draft.op_type, from) else {
            let op = &draft.op_type;
            return Ok(Err(format!("operator `{op}` of opset {from} is not known")));
        };
        if schema::has_ended(schema) {
            let (op, ended) = (&draft.op_type, schema.since_version);
            return Ok(Err(format!("operator `{op}` ended with opset {ended}")));
        }
        while let Some(next) = self.next(domain, schema) {
            let since = next.since_version;
            let step = match rules::rule(domain, &draft.op_type, since) {
                Some(rule) => rule(draft, self)?,
                None => unchanged::check(self, draft, schema, next),
            };
            if let Err(why) = step {
                let op = &draft.op_type;
                return Ok(Err(format!("`{op}` of opset {since}: {why}")));
            }
            // A rule may make it another operator of the same version.
            match schema::lookup(domain, &draft.op_type, since) {
                Some(now) => schema = now,
                None => return Ok(Err(format!("`{}` is not known", draft.op_type))),
            }
        }
        Ok(Ok(()))
    }

    /// The version of the operator after `schema`, if it is not beyond the wanted opset.
    fn next(&self, domain: &str, schema: &OpSchema) -> Option<&'static OpSchema> {
        let versions = schema::versions(domain, schema.name);
        let mut newer = versions
            .iter()
            .filter(|s| s.since_version > schema.since_version);
        newer.next().filter(|s| s.since_version <= self.to)
    }
}
