//! A whole model against targets.

use serde::Serialize;

use super::{Because, Effect, Form, Runtime, Target, Targets, Verdict};
use crate::{
    infer::Facts,
    ir::{Callees, Model, NodeId},
    schema::{self, Origin},
    verify::location,
};

/// What a target does with one node, or with the model, other than simply running it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where: the function and the nodes around it, then the node; empty for the model as a whole.
    pub location: String,
    /// The operator, with its domain when that is not the default one; empty for the model.
    pub operator: String,
    /// Target, effect, reason and source.
    #[serde(flatten)]
    pub because: Because,
}

/// Nodes of one operator of which it is not known whether a target runs them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotKnown {
    /// The target.
    pub target: Target,
    /// The operator, as in [`Finding`].
    pub operator: String,
    /// How many nodes.
    pub nodes: usize,
}

/// What targets do with a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Assessment {
    /// What is refused, fails, is wrong or slow: by target, in document order.
    pub findings: Vec<Finding>,
    /// What is not known, by target, in order of the operator.
    pub not_known: Vec<NotKnown>,
}

impl Assessment {
    /// The worst effect that was found.
    pub fn worst(&self) -> Effect {
        let effects = self.findings.iter().map(|f| f.because.effect);
        effects.max().unwrap_or(Effect::Runs)
    }
}

/// Asks every target about every node of `model`, which is valid, and about its versions.
/// Calls of local functions are not asked about, but the nodes of their bodies are, for what
/// holds in every call.
pub fn check(model: &Model, facts: &Facts, targets: &Targets) -> Assessment {
    if targets.is_empty() {
        return Assessment::default();
    }
    let functions = Callees::of(&model.functions);
    let nodes = model.reachable_nodes().into_iter();
    let nodes = nodes.filter(|&n| functions.called(&model.nodes[n]).is_none());
    let forms: Vec<(NodeId, Form)> = nodes.map(|n| (n, Form::of(model, facts, n))).collect();
    let mut assessment = Assessment::default();
    for target in targets.iter() {
        assessment.findings.extend(versions(model, target));
        assessment
            .findings
            .extend(attributes(model, &forms, target));
        assessment.nodes(model, &forms, target);
    }
    assessment
}

/// The oldest release of ONNX Runtime whose CPU runs `model`, if it and all newer ones are known to.
pub fn oldest_onnxruntime(model: &Model, facts: &Facts) -> Option<Target> {
    let functions = Callees::of(&model.functions);
    let mut forms: Vec<Form> = Vec::new();
    for node in model.reachable_nodes() {
        if functions.called(&model.nodes[node]).is_none() {
            if unknown_attribute(model, node).is_some() {
                return None;
            }
            let form = Form::of(model, facts, node);
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    let releases = Runtime::OnnxRuntime.versions().rev();
    let targets = releases.map(|version| Target {
        runtime: Runtime::OnnxRuntime,
        version,
    });
    let runs = |target: &Target| {
        versions(model, *target).is_empty()
            && forms.iter().all(|form| target.verdict(form).may_emit())
    };
    targets.take_while(runs).last()
}

impl Assessment {
    fn nodes(&mut self, model: &Model, forms: &[(NodeId, Form)], target: Target) {
        let mut not_known: Vec<NotKnown> = Vec::new();
        for (node, form) in forms {
            let operator = operator(form);
            match target.verdict(form) {
                Verdict::Runs => {}
                Verdict::Unknown(_) => {
                    match not_known.iter_mut().find(|u| u.operator == operator) {
                        Some(same) => same.nodes += 1,
                        None => not_known.push(NotKnown {
                            target,
                            operator,
                            nodes: 1,
                        }),
                    }
                }
                Verdict::Slow(because) | Verdict::Wrong(because) | Verdict::Refused(because) => {
                    self.findings.push(Finding {
                        location: location(model, *node),
                        operator,
                        because,
                    });
                }
            }
        }
        not_known.sort_by(|a, b| a.operator.cmp(&b.operator));
        self.not_known.append(&mut not_known);
    }
}

fn operator(form: &Form) -> String {
    match form.domain() {
        "" => form.op_type().to_owned(),
        domain => format!("{domain}::{}", form.op_type()),
    }
}

/// What `target` has against attributes that operators do not have.
fn attributes(model: &Model, forms: &[(NodeId, Form)], target: Target) -> Vec<Finding> {
    if !target.runtime.is_onnxruntime() {
        return Vec::new();
    }
    let finding = |(node, form): &(NodeId, Form)| {
        let name = unknown_attribute(model, *node)?;
        Some(Finding {
            location: location(model, *node),
            operator: operator(form),
            because: Because {
                target,
                effect: Effect::Refused,
                found: format!("attribute `{name}`"),
                reason: "the operator has no such attribute".to_owned(),
                instead: "the pass strip-attrs".to_owned(),
                source: "executed".to_owned(),
            },
        })
    };
    forms.iter().filter_map(finding).collect()
}

/// An attribute that the operator of a node does not have, if that is one of the standard's.
fn unknown_attribute(model: &Model, node: NodeId) -> Option<&str> {
    let n = &model.nodes[node];
    let opset = model.opset(n.graph, n.domain())?;
    let schema = schema::lookup(n.domain(), &n.op_type, opset)?;
    let checked = schema.origin == Origin::Onnx && !schema.unchecked_attributes;
    if !checked || schema::is_beyond_table(n.domain(), opset) {
        return None;
    }
    let mut names = n.attributes.iter().map(|a| &*a.name);
    names.find(|name| schema.attribute(name).is_none())
}

/// What `target` has against the versions of format and operators that `model` says it uses.
fn versions(model: &Model, target: Target) -> Vec<Finding> {
    let Some(limit) = target.limit() else {
        return Vec::new();
    };
    let finding = |what: &str, found: i64, most: i64| Finding {
        location: String::new(),
        operator: String::new(),
        because: Because {
            target,
            effect: Effect::Refused,
            found: format!("{what} {found}"),
            reason: format!("the newest {what} that is loaded is {most}"),
            instead: format!("{what} {most} or older"),
            source: limit.source.to_owned(),
        },
    };
    let bodies = model.functions.iter().map(|f| &f.opset_imports);
    let imports = std::iter::once(&model.opset_imports)
        .chain(bodies)
        .flatten();
    let opset = imports.filter(|o| o.domain().is_empty());
    let opset = opset.filter_map(|o| o.version).max();
    let ir = model.ir_version.filter(|&v| v > limit.ir);
    let opset = opset.filter(|&v| v > limit.opset);
    let ir = ir.map(|v| finding("IR version", v, limit.ir));
    ir.into_iter()
        .chain(opset.map(|v| finding("opset", v, limit.opset)))
        .collect()
}
