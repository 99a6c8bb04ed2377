//! Columns of figures.

/// Rows under their titles: the first column to the left, the others to the right.
pub(crate) fn table(titles: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let titles = titles.iter().map(|&t| t.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(titles).chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, c: usize| row.get(c).map_or(0, |t| t.chars().count());
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().map(|row| cell(row, c)).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> = cells
            .map(|(c, (cell, &width))| match c {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A positive number with as many decimals as say something.
pub(crate) fn figure(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        x if x >= 1.0 => format!("{x:.2}"),
        x => format!("{x:.3}"),
    }
}

/// A number of bytes in MB.
pub(crate) fn bytes(n: u64) -> String {
    format!("{} MB", figure(n as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "1.5"], ["long", "10"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(
            table(&["m", "x"], rows.into_iter()),
            "m       x\na     1.5\nlong   10\n"
        );
        assert_eq!(figure(0.01234), "0.012");
        assert_eq!(bytes(1_500_000), "1.50 MB");
    }
}
