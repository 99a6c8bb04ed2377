//! An inspection for people.

use std::fmt::{self, Display, Formatter};

use super::{Inspection, Port, Verdict};

/// How many inputs or outputs are shown before the rest is only counted: the cache of a
/// large language model has two for every layer.
const PORTS: usize = 16;

/// How much of a metadata value is shown.
const VALUE: usize = 200;

/// A number of bytes as people write it.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if n < 1000 {
        return format!("{n} bytes");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    // 999.95 would be printed as 1000.0.
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

impl Display for Inspection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, file) in self.files.iter().enumerate() {
            let label = if i == 0 { "model" } else { "side file" };
            let (path, size) = (&file.path, bytes(file.bytes));
            writeln!(f, "{label:<12}{path}, {size} ({} bytes)", file.bytes)?;
            if let Some(hash) = &file.sha256 {
                writeln!(f, "{:<12}sha256 {hash}", "")?;
            }
        }
        if self.files.len() > 1 {
            writeln!(f, "{:<12}{}", "total", bytes(self.total_bytes))?;
        }
        let version = self.ir_version.map_or("none".into(), |v| v.to_string());
        writeln!(f, "{:<12}{version}", "ir version")?;
        let opsets = self.opsets.iter().map(|o| {
            let version = o.version.map_or("?".into(), |v| v.to_string());
            format!("{} {version}", o.domain)
        });
        let opsets: Vec<String> = opsets.collect();
        writeln!(f, "{:<12}{}", "opsets", opsets.join(", "))?;
        let producer = [&self.producer_name, &self.producer_version];
        let producer: Vec<&str> = producer.into_iter().flatten().map(String::as_str).collect();
        let texts = [
            ("producer", Some(producer.join(" "))),
            ("graph", self.graph_name.clone()),
            ("domain", self.domain.clone()),
            ("version", self.model_version.map(|v| v.to_string())),
            ("doc", self.doc_string.as_deref().map(shown)),
        ];
        for (label, text) in texts {
            if let Some(text) = text.filter(|t| !t.is_empty()) {
                writeln!(f, "{label:<12}{text}")?;
            }
        }
        for (key, value) in &self.metadata {
            writeln!(f, "{:<12}{key} = {}", "metadata", shown(value))?;
        }
        ports(f, "inputs", &self.inputs)?;
        ports(f, "inputs with a default", &self.optional_inputs)?;
        ports(f, "outputs", &self.outputs)?;
        self.axes(f)?;
        self.batch_verdict(f)?;
        self.operators(f)?;
        self.weights(f)
    }
}

/// The first part of a text, on one line.
fn shown(text: &str) -> String {
    let line = text.replace(['\n', '\r'], " ");
    match line.char_indices().nth(VALUE) {
        Some((end, _)) => format!("{}... ({} bytes)", &line[..end], text.len()),
        None => line,
    }
}

fn ports(f: &mut Formatter<'_>, title: &str, ports: &[Port]) -> fmt::Result {
    if ports.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title} ({})", ports.len())?;
    let width = ports.iter().take(PORTS).map(|p| p.name.chars().count());
    let width = width.max().unwrap_or(0);
    for p in ports.iter().take(PORTS) {
        writeln!(f, "  {:<width$}  {}", p.name, p.r#type)?;
    }
    if ports.len() > PORTS {
        writeln!(f, "  and {} more", ports.len() - PORTS)?;
    }
    Ok(())
}

impl Inspection {
    fn axes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.dynamic_axes.is_empty() {
            return writeln!(f, "\ndynamic axes: none, every extent is fixed");
        }
        writeln!(f, "\ndynamic axes")?;
        for axis in &self.dynamic_axes {
            let name = axis.name.as_deref().unwrap_or("(without name)");
            let uses = axis.uses.iter().map(|(port, i)| format!("{port}[{i}]"));
            let mut uses: Vec<String> = uses.collect();
            if uses.len() > 6 {
                let more = uses.len() - 5;
                uses.truncate(5);
                uses.push(format!("and {more} more"));
            }
            writeln!(f, "  {name}: {}", uses.join(", "))?;
        }
        Ok(())
    }

    fn batch_verdict(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let axis = match &self.batch.axis {
            Some(name) => format!(", axis `{name}`"),
            None => String::new(),
        };
        let verdict = match self.batch.verdict {
            Verdict::Free => format!("more than one item is allowed{axis}"),
            Verdict::Fixed => "only the declared number of items".to_owned(),
            Verdict::One => "more than one item is not allowed".to_owned(),
            Verdict::Unclear => "more than one item is not allowed as declared".to_owned(),
            Verdict::None => "no input has a batch axis".to_owned(),
        };
        writeln!(f, "\nbatch: {verdict}")?;
        let lines = self.batch.reasons.iter().chain(&self.batch.notes);
        for line in lines.clone().take(PORTS) {
            writeln!(f, "  {line}")?;
        }
        match lines.count() {
            n if n > PORTS => writeln!(f, "  and {} more", n - PORTS),
            _ => Ok(()),
        }
    }

    fn operators(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let subgraphs = match self.subgraphs {
            0 => "no subgraphs".to_owned(),
            1 => "1 subgraph".to_owned(),
            n => format!("{n} subgraphs"),
        };
        writeln!(f, "\noperators ({} nodes, {subgraphs})", self.nodes)?;
        for o in &self.operators {
            match o.domain.as_str() {
                "ai.onnx" => writeln!(f, "  {:>6}  {}", o.count, o.op_type)?,
                domain => writeln!(f, "  {:>6}  {domain}::{}", o.count, o.op_type)?,
            }
        }
        if !self.functions.is_empty() {
            writeln!(f, "\nfunctions ({})", self.functions.len())?;
        }
        for function in &self.functions {
            let overload = match function.overload.as_deref() {
                None | Some("") => String::new(),
                Some(o) => format!(":{o}"),
            };
            let (domain, name) = (&function.domain, &function.name);
            writeln!(f, "  {domain}::{name}{overload}  {} nodes", function.nodes)?;
        }
        Ok(())
    }

    fn weights(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let w = &self.weights;
        write!(f, "\nweights ({}, {})", w.count, bytes(w.bytes))?;
        match w.stored_bytes < w.bytes {
            true => writeln!(f, ", {} stored: some share bytes", bytes(w.stored_bytes))?,
            false => writeln!(f)?,
        }
        for row in &w.by_type {
            let count = match (row.initializers, row.attributes) {
                (i, 0) => format!("{i}"),
                (i, a) => format!("{i} and {a} in attributes"),
            };
            let share = row.share * 100.0;
            let size = bytes(row.bytes);
            writeln!(f, "  {:<10}{size:>12}  {share:5.1} %  {count}", row.dtype)?;
        }
        if let Some(bits) = w.quantized.bits_per_weight {
            let elements = w.quantized.elements;
            writeln!(
                f,
                "\nquantized ({elements} elements, {bits:.2} bits per weight)"
            )?;
        }
        for g in &w.quantized.groups {
            let zero = match g.asymmetric {
                0 => "symmetric".to_owned(),
                n if n == g.nodes => "with zero points".to_owned(),
                n => format!("{n} with zero points"),
            };
            let (op, bits, block) = (&g.op_type, g.bits, g.block_size);
            writeln!(
                f,
                "  {:>6}  {op}, {bits} bits, block {block}, {zero}",
                g.nodes
            )?;
        }
        if !w.largest.is_empty() {
            writeln!(f, "\nlargest weights")?;
        }
        for weight in &w.largest {
            let size = bytes(weight.bytes);
            let (dtype, shape) = (weight.dtype, &weight.shape);
            writeln!(f, "  {size:>12}  {dtype}{shape:?}  {}", weight.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_unit() {
        let cases = [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (5_993_660_416, "6.0 GB"),
            (u64::MAX, "18446744.1 TB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shown("a\nb"), "a b");
        let long = "ü".repeat(VALUE + 1);
        let cut = format!("{}... (402 bytes)", "ü".repeat(VALUE));
        assert_eq!(shown(&long), cut);
    }
}
