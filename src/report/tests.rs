//! What a reader and a parser find in the reports.

use std::slice::from_ref;

use scraper::{Html, Selector};
use serde_json::Value;

use super::{fixture, frontier_html, frontier_text, html, junit, text};
use crate::eval::Evaluation;

/// Every kind of page.
fn pages() -> Vec<(&'static str, String)> {
    let (lm, tensors) = (fixture::language_model(), fixture::tensors());
    let (alone, degenerate) = (fixture::alone(), fixture::degenerate());
    let title = fixture::HOSTILE;
    vec![
        ("lm", html(title, from_ref(&lm), Some(&fixture::bench()))),
        ("tensors", html(title, from_ref(&tensors), None)),
        ("both", html(title, &[lm, tensors], None)),
        ("alone", html(title, &[alone], None)),
        ("degenerate", html(title, &[degenerate], None)),
        ("bench", html(title, &[], Some(&fixture::bench()))),
        ("empty", html(title, &[], None)),
        ("frontier", frontier_html(title, &fixture::frontier())),
        (
            "frontier of tensors",
            frontier_html(title, &fixture::frontier_of_tensors()),
        ),
        ("no frontier", frontier_html(title, &fixture::no_frontier())),
    ]
}

/// The texts of what `selector` finds.
fn found(page: &Html, selector: &str) -> Vec<String> {
    let selector = Selector::parse(selector).unwrap();
    let texts = page.select(&selector).map(|e| e.text().collect());
    texts.collect()
}

/// Writes pages of invented numbers to a temporary folder, to be looked at.
#[test]
#[ignore = "for people: cargo test report::tests::samples -- --ignored --nocapture"]
#[expect(clippy::print_stdout, reason = "says where the pages are")]
fn samples() {
    let folder = std::env::temp_dir().join("onnxq-report-samples");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, page) in pages() {
        let page = page.replacen("<h1>", "<h1>Sample, not measured: ", 1);
        let path = folder.join(name).with_extension("html");
        std::fs::write(&path, &page).unwrap();
        println!("{} ({} bytes)", path.display(), page.len());
    }
    println!("{}", text(&fixture::language_model()));
    println!("{}", text(&fixture::tensors()));
    println!("{}", junit(&fixture::language_model()));
    println!("{}", frontier_text(&fixture::frontier()));
    println!("{}", frontier_text(&fixture::frontier_of_tensors()));
}

#[test]
fn pages_are_html_that_loads_and_runs_nothing() {
    for (name, page) in pages() {
        let parsed = Html::parse_document(&page);
        assert!(parsed.errors.is_empty(), "{name}: {:?}", parsed.errors);
        for selector in [
            "script", "link", "img", "iframe", "[src]", "[href]", "[onload]",
        ] {
            assert!(found(&parsed, selector).is_empty(), "{name}: {selector}");
        }
        assert!(
            !page.contains("http://") && !page.contains("https://"),
            "{name}"
        );
        assert!(!page.contains("url("), "{name}");
        assert_eq!(found(&parsed, "head > title"), [fixture::HOSTILE], "{name}");
        assert_eq!(found(&parsed, "h1"), [fixture::HOSTILE], "{name}");
    }
}

#[test]
fn nothing_on_a_page_is_empty_or_no_number() {
    for (name, page) in pages() {
        let parsed = Html::parse_document(&page);
        for text in ["NaN", "inf%", "null", "undefined"] {
            assert!(!page.contains(text), "{name}: {text}");
        }
        let every = |selector: &str| {
            for text in found(&parsed, selector) {
                assert!(!text.trim().is_empty(), "{name}: an empty {selector}");
            }
        };
        every("h1, h2, h3, th, dt, dd, caption, figcaption, p, small");
        every("svg[role=img] > title, svg > desc");
        for table in ["table tbody", "div.strips", "dl"] {
            every(table);
        }
    }
}

#[test]
fn the_page_has_the_numbers_beside_their_noise() {
    let page = html("t", &[fixture::language_model()], None);
    let parsed = Html::parse_document(&page);
    let names = found(&parsed, ".numbers thead th bdi");
    let expected = [
        "fp32",
        "fp32, external data",
        "fp16",
        fixture::HOSTILE,
        "q4 block 32",
    ];
    assert_eq!(names, expected);
    let rows = found(&parsed, ".numbers tbody tr");
    let row = |label: &str| rows.iter().find(|r| r.starts_with(label)).unwrap();
    assert!(
        row("mean KLD").contains("0.03120 ± 0.00081noise 3.1 × 10⁻⁷"),
        "{rows:?}"
    );
    assert!(row("mean KLD").contains("(4.00 ± 0.10) × 10⁻⁸within noise, 1.9 × 10⁻⁷"));
    assert!(row("same top-1").contains("91.40 ± 0.44 %"));
    for label in ["p99 KLD", "max |Δ log-prob|", "same top-5", "load", "run"] {
        row(label);
    }
    // A point within the noise is hollow wherever it is drawn.
    assert_eq!(found(&parsed, ".scatter .hollow").len(), 1);
    assert_eq!(found(&parsed, ".scatter circle").len(), 4);
    let limits = found(&parsed, ".limits tbody tr");
    assert_eq!(limits.len(), 5);
    assert!(limits[0].contains("0.0312 > 0.01 (3.1 ×)"), "{limits:?}");
    assert!(limits[0].contains("token 1234 ' <the>'"));
    assert!(found(&parsed, ".verdict")[0].contains("2 of 5 limits missed"));
    for sha in ["a3", "5f"] {
        assert!(found(&parsed, ".sha").contains(&format!("SHA-256 {}", sha.repeat(32))));
    }
}

#[test]
fn the_frontier_is_in_the_chart_and_in_the_table() {
    let report = fixture::frontier();
    let page = frontier_html("t", &report);
    let parsed = Html::parse_document(&page);
    assert_eq!(found(&parsed, ".scatter circle").len(), 4);
    assert_eq!(found(&parsed, ".scatter .c1 circle").len(), 3);
    assert_eq!(found(&parsed, ".scatter .c0 circle").len(), 1);
    // The one within the noise of the engine.
    assert_eq!(found(&parsed, ".scatter .hollow").len(), 1);
    let tips = found(&parsed, ".scatter .point > title");
    let tip = "--method mse: 84.60 MB, 5.05 bits a weight, mean KLD 0.2800 ± 0.0084";
    assert!(tips.iter().any(|t| t == tip), "{tips:?}");
    // From above to the first way, two steps between ways, and two lines on to the right end.
    assert_eq!(
        found(&parsed, ".scatter line.frontier").len(),
        1 + 2 * 2 + 2
    );
    let rows = found(&parsed, ".ways tbody tr");
    assert_eq!(rows.len(), 1 + report.ways.len());
    for (row, way) in rows[1..].iter().zip(&report.ways) {
        assert!(
            row.contains(way.options.split(' ').next().unwrap()),
            "{row}"
        );
        assert_eq!(row.contains("on it"), way.frontier, "{row}");
    }
    assert!(found(&parsed, ".warning")[1].contains("--budget 1bpw"));
}

#[test]
fn the_text_has_a_line_a_way() {
    let report = fixture::frontier();
    let table = frontier_text(&report);
    for way in &report.ways {
        let line = table.lines().find(|l| l.ends_with(&way.options)).unwrap();
        assert_eq!(line.starts_with("  *"), way.frontier, "{line}");
    }
    assert!(table.contains("failed: --budget 1bpw: the least"));
    let tensors = frontier_text(&fixture::frontier_of_tensors());
    assert!(tensors.contains("relative error") && !tensors.contains("KLD"));
}

#[test]
fn junit_has_a_suite_a_model_and_a_case_a_limit() {
    let report = junit(&fixture::language_model());
    assert_eq!(report, junit(&fixture::language_model()));
    let parsed = quick_junit::Report::deserialize_from_str(&report).unwrap();
    let suites = &parsed.test_suites;
    let names: Vec<&str> = suites.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "fp32, external data",
            "fp16",
            fixture::HOSTILE,
            "q4 block 32"
        ]
    );
    let cases: Vec<usize> = suites.iter().map(|s| s.test_cases.len()).collect();
    assert_eq!(cases, [1, 2, 3, 1]);
    assert_eq!((parsed.tests, parsed.failures), (7, 2));
    assert_eq!(suites[0].test_cases[0].name.as_str(), "evaluated");
    assert!(
        report.contains("token 1234 &apos; &lt;the&gt;&apos;"),
        "{report}"
    );
    assert!(report.contains("max-mean-kld: 0.0312 &gt; 0.01 (3.1 x); worst at window 3"));
    let property = |name: &str| {
        let mut all = suites[2].properties.iter();
        let found = all.find(|p| p.name.as_str() == name);
        found.map(|p| p.value.as_str().to_owned())
    };
    assert_eq!(property("engine").unwrap(), "onnxruntime 1.31.1");
    assert_eq!(property("input.sha256").unwrap(), "a3".repeat(32));
}

#[test]
fn text_has_the_numbers_and_the_missed_limits() {
    let text = text(&fixture::language_model());
    assert!(text.contains("limits: 2 of 5 limits missed"), "{text}");
    let missed = "0.0312 > 0.01 (3.1 x); worst at window 3, position 118, token 1234 ' <the>'";
    assert!(text.contains(missed), "{text}");
    assert!(text.contains("within 1.9e-7"), "{text}");
    assert!(text.contains("and 10 more"), "{text}");
    assert!(text.lines().all(|l| l == l.trim_end()), "{text}");
    let numbers = text
        .lines()
        .skip(7)
        .take_while(|l| !l.contains("relative error"));
    assert!(numbers.clone().count() > 30);
    assert!(numbers.clone().all(|l| l.chars().count() <= 100), "{text}");
    let mut sly = fixture::alone();
    sly.models[0].name = "a\u{1b}[31m\nb".into();
    assert!(super::text(&sly).contains(r"a\u{1b}[31m\nb"));
}

/// The documentation's sections: name, and each field with its type.
fn documented() -> Vec<(String, Vec<(String, String)>)> {
    let docs = [
        include_str!("../../docs/eval-json.md"),
        include_str!("../../docs/tune-json.md"),
    ];
    let mut sections = Vec::<(String, Vec<(String, String)>)>::new();
    for line in docs.into_iter().flat_map(str::lines) {
        if let Some(name) = line.strip_prefix("### ") {
            sections.push((name.to_owned(), Vec::new()));
        } else if let Some(row) = line.strip_prefix("| `") {
            let (field, rest) = row.split_once("` | ").expect("a field and its type");
            let kind = rest.split(" | ").next().unwrap_or_default();
            let section = sections.last_mut().expect("a section above its fields");
            section.1.push((field.to_owned(), kind.to_owned()));
        }
    }
    sections
}

/// Checks `value` against the section `name`, and notes which sections were met.
fn check(name: &str, value: &Value, met: &mut Vec<String>) {
    if !met.iter().any(|m| m == name) {
        met.push(name.to_owned());
    }
    let sections = documented();
    let (_, fields) = sections.iter().find(|(n, _)| n == name).expect(name);
    let object = value.as_object().expect(name);
    for key in object.keys() {
        assert!(
            fields.iter().any(|(f, _)| f == key),
            "{name}.{key} is not documented"
        );
    }
    for (field, kind) in fields {
        let optional = kind.contains("optional");
        let Some(value) = object.get(field) else {
            assert!(optional, "{name}.{field} is documented and not there");
            continue;
        };
        // `[Estimate](#estimate)`, `list of [Bin](#bin)`
        let link = kind.split_once('[').and_then(|(_, k)| k.split_once(']'));
        match (link, value) {
            (None, Value::Object(_)) => panic!("{name}.{field} has no section"),
            (Some((section, _)), Value::Array(all)) => {
                all.iter().for_each(|v| check(section, v, met));
            }
            (Some((section, _)), value) => check(section, value, met),
            (None, _) => {}
        }
    }
}

/// Every optional field that is documented is there in one of the evaluations.
fn all_keys(value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                keys.push(key.clone());
                all_keys(value, keys);
            }
        }
        Value::Array(all) => all.iter().for_each(|v| all_keys(v, keys)),
        _ => {}
    }
}

#[test]
fn the_schema_is_documented() {
    let evaluations = [fixture::language_model(), fixture::tensors()];
    let (mut met, mut keys) = (Vec::new(), Vec::new());
    for evaluation in evaluations {
        let json = serde_json::to_value::<Evaluation>(evaluation).unwrap();
        check("Evaluation", &json, &mut met);
        all_keys(&json, &mut keys);
    }
    for report in [fixture::frontier(), fixture::frontier_of_tensors()] {
        let json = serde_json::to_value(report).unwrap();
        check("Tune", &json, &mut met);
        all_keys(&json, &mut keys);
    }
    for (section, fields) in documented() {
        assert!(
            met.contains(&section),
            "{section} is documented and nowhere used"
        );
        for (field, _) in fields {
            assert!(
                keys.contains(&field),
                "{section}.{field} is documented and never written"
            );
        }
    }
    let doc = include_str!("../../docs/eval-json.md");
    assert!(doc.contains(crate::eval::report::SCHEMA));
    assert!(include_str!("../../docs/tune-json.md").contains(crate::tune::SCHEMA));
}
