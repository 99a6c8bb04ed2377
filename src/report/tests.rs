//! What a reader and a parser find in the reports.

use super::{fixture, html, text};

/// Writes pages of invented numbers to a temporary folder, to be looked at.
#[test]
#[ignore = "for people: cargo test report::tests::samples -- --ignored --nocapture"]
#[expect(clippy::print_stdout, reason = "says where the pages are")]
fn samples() {
    let folder = std::env::temp_dir().join("onnxq-report-samples");
    std::fs::create_dir_all(&folder).unwrap();
    let bench = fixture::bench();
    let pages = [
        ("lm", html("Sample, not measured", &[fixture::language_model()], Some(&bench))),
        ("tensors", html("Sample, not measured", &[fixture::tensors()], None)),
        ("alone", html("Sample, not measured", &[fixture::alone()], None)),
        ("degenerate", html("Sample, not measured", &[fixture::degenerate()], None)),
    ];
    for (name, page) in pages {
        let path = folder.join(name).with_extension("html");
        std::fs::write(&path, &page).unwrap();
        println!("{} ({} bytes)", path.display(), page.len());
    }
    println!("{}", text(&fixture::language_model()));
    println!("{}", text(&fixture::tensors()));
}
