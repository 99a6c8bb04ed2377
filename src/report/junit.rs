//! The limits as test cases, for continuous integration.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use super::words::{plain, relation, worst};
use crate::eval::report::{Evaluation, LimitResult, ModelResult};

/// `evaluation` as JUnit XML: a suite for each model, a case for each limit. A model without
/// limits has one case, which says that it was evaluated.
pub fn junit(evaluation: &Evaluation) -> String {
    let mut report = Report::new("onnxq eval");
    let suites = evaluation.models.iter().map(|m| suite(evaluation, m));
    report.add_test_suites(suites);
    report
        .to_string()
        .expect("a report without a timestamp, written to memory")
}

fn suite(evaluation: &Evaluation, model: &ModelResult) -> TestSuite {
    let name = plain(&model.name);
    let mut suite = TestSuite::new(name.clone());
    // No timestamp: two reports of the same numbers are the same.
    if let Ok(time) = Duration::try_from_secs_f64(model.load_seconds + model.run_seconds) {
        suite.set_time(time);
    }
    suite.add_properties(properties(evaluation, model));
    if model.limits.is_empty() {
        let mut case = TestCase::new("evaluated", TestCaseStatus::success());
        case.set_classname(name);
        suite.add_test_case(case);
    }
    let cases = model.limits.iter().map(|limit| case(&model.name, limit));
    suite.add_test_cases(cases);
    if !evaluation.warnings.is_empty() {
        let warnings: Vec<String> = evaluation.warnings.iter().map(|w| plain(w)).collect();
        suite.set_system_err(warnings.join("\n"));
    }
    suite
}

fn properties(evaluation: &Evaluation, model: &ModelResult) -> Vec<Property> {
    let engine = &evaluation.engine;
    let path = |m: &ModelResult| m.path.clone();
    let baseline = evaluation.baseline.as_ref();
    let all = [
        ("onnxq", Some(evaluation.onnxq.to_owned())),
        (
            "engine",
            Some(format!("{} {}", engine.name, engine.version)),
        ),
        ("threads", Some(engine.threads.to_string())),
        ("input", Some(evaluation.input.source.clone())),
        ("input.sha256", Some(evaluation.input.sha256.clone())),
        ("model", path(model)),
        ("model.sha256", model.sha256.clone()),
        (
            "baseline",
            baseline.map(|b| path(b).unwrap_or_else(|| b.name.clone())),
        ),
        ("baseline.sha256", baseline.and_then(|b| b.sha256.clone())),
    ];
    all.into_iter()
        .filter_map(|(name, value)| Some(Property::new(name, plain(&value?))))
        .collect()
}

fn case(model: &str, limit: &LimitResult) -> TestCase {
    let status = match limit.held {
        true => TestCaseStatus::success(),
        false => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_type("limit").set_message(missed(limit));
            status
        }
    };
    let mut case = TestCase::new(limit.name, status);
    case.set_classname(plain(model));
    if limit.held {
        case.set_system_out(relation(limit));
    }
    case
}

fn missed(limit: &LimitResult) -> String {
    let mut text = format!("{}: {}", limit.name, relation(limit));
    if let Some(worst) = worst(limit) {
        text += &format!("; worst at {worst}");
    }
    text
}
