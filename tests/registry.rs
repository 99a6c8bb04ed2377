//! The registry, and the page that is generated from it.

use std::{fmt::Write, fs, path::Path};

use onnxq::passes::REGISTRY;

/// `passes/README.md` from the registry.
fn page() -> String {
    let mut out =
        "# Passes\n\nGenerated from the registry by `ONNXQ_BLESS=1 cargo test --test registry`.\n"
            .to_owned();
    for pass in REGISTRY.passes {
        writeln!(out, "\n{}", pass.document().trim_end()).unwrap();
    }
    out.push_str("\n# Pipelines\n\n");
    for p in REGISTRY.pipelines {
        writeln!(out, "- `{}`: {}: `{}`", p.name, p.summary, p.text).unwrap();
    }
    out
}

#[test]
fn the_page_of_passes_is_what_the_registry_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("passes/README.md");
    if std::env::var_os("ONNXQ_BLESS").is_some() {
        fs::write(&path, page()).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page(),
        "passes/README.md is out of date; ONNXQ_BLESS=1 rewrites it"
    );
}

#[test]
fn names_are_unique_and_follow_the_convention() {
    let passes = REGISTRY.passes.iter().map(|p| p.name);
    let mut names: Vec<&str> = passes
        .chain(REGISTRY.pipelines.iter().map(|p| p.name))
        .collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(
        names.len(),
        count,
        "passes and pipelines share one namespace"
    );
    for pass in REGISTRY.passes {
        let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(pass.name.chars().all(kebab), "{}", pass.name);
        let file = format!("passes/{}", pass.name.replace('-', "_"));
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let exists = root.join(format!("{file}.rs")).is_file() || root.join(&file).is_dir();
        assert!(exists, "pass `{}` is in {file}.rs or {file}/", pass.name);
        for heading in ["## Scope", "## Statistics", "## Example"] {
            assert!(
                pass.doc.contains(heading),
                "pass `{}` documents {heading}",
                pass.name
            );
        }
    }
}
