//! Measures how much each channel of each weight counts over given inputs: the mean squares of
//! what it is multiplied by, by node, as a file of tensors. Token ids are a JSON list; tensors
//! are .npz or .safetensors, each file an item.
//!
//! ```text
//! cargo run --release -p onnxq-test-tools --bin measure_importance -- model.onnx out.safetensors tokens.json \
//!     [--window 256] [--folder DIR] [--float-rows] [--replace] [--engine onnxruntime|rten]
//! ```
//!
//! `--replace` puts every weight in its own place, as a quantizer puts another one there.

use std::{
    env,
    error::Error,
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use onnxq::{
    calibrate::{Options, Sequence, Sites, Visitor},
    engine::{self, Array, Choice, read_tensors, write_tensors},
    eval::{Items, Tokens},
    inline::inline,
    weights::MatrixView,
};

struct Args {
    files: Vec<PathBuf>,
    engine: Choice,
    window: usize,
    folder: Option<PathBuf>,
    float_rows: bool,
    replace: bool,
}

impl Args {
    fn parse() -> Result<Args, Box<dyn Error>> {
        let mut parsed = Args {
            files: Vec::new(),
            engine: Choice::Auto,
            window: 256,
            folder: None,
            float_rows: false,
            replace: false,
        };
        let mut args = env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--window" => parsed.window = value()?.parse()?,
                "--folder" => parsed.folder = Some(value()?.into()),
                "--engine" => {
                    parsed.engine = match value()?.as_str() {
                        "onnxruntime" => Choice::OnnxRuntime,
                        "rten" => Choice::Rten,
                        other => return Err(format!("no engine {other}").into()),
                    }
                }
                "--float-rows" => parsed.float_rows = true,
                "--replace" => parsed.replace = true,
                flag if flag.starts_with("--") => return Err(format!("no option {flag}").into()),
                file => parsed.files.push(file.into()),
            }
        }
        Ok(parsed)
    }
}

/// Sums of squares, by group.
struct Importance {
    sums: Vec<Vec<f64>>,
    rows: Vec<u64>,
    /// The weights that are put in their own places.
    weights: Vec<Vec<Option<MatrixView>>>,
}

impl Visitor for Importance {
    fn activations(
        &mut self,
        group: usize,
        _: usize,
        rows: &[f32],
        _: Option<&[f32]>,
    ) -> onnxq::Result<()> {
        let sums = &mut self.sums[group];
        for row in rows.chunks(sums.len()) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        Ok(())
    }

    fn finish(&mut self, group: usize, rows: u64) -> onnxq::Result<Vec<Option<Vec<f32>>>> {
        self.rows[group] = rows;
        let weights = self.weights[group].iter();
        weights
            .map(|w| w.as_ref().map(MatrixView::elements).transpose())
            .collect()
    }

    fn save(&mut self, group: usize) -> onnxq::Result<Vec<u8>> {
        let sums = self.sums[group].iter().flat_map(|x| x.to_le_bytes());
        Ok(sums.chain(self.rows[group].to_le_bytes()).collect())
    }

    fn restore(&mut self, group: usize, saved: &[u8]) -> onnxq::Result<()> {
        let (words, _) = saved.as_chunks();
        if let Some((rows, sums)) = words.split_last() {
            self.rows[group] = u64::from_le_bytes(*rows);
            self.sums[group] = sums.iter().map(|b| f64::from_le_bytes(*b)).collect();
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse()?;
    let [model, out, inputs @ ..] = args.files.as_slice() else {
        return Err("expected MODEL OUT INPUTS...".into());
    };
    let mut model = onnxq::open(model).map_err(|e| e.chain())?;
    // Weights in local functions are reached when these are inlined.
    inline(&mut model, |_| true, || true)?;
    let engine = engine::find(args.engine, None).map_err(|e| e.chain())?;
    let options = Options {
        folder: args.folder.as_deref(),
        key: if args.replace { "replaced" } else { "kept" },
        float_rows: args.float_rows,
        ..Options::default()
    };
    let (tokens, sets);
    let items = match inputs {
        [file] if file.extension().is_some_and(|e| e == "json") => {
            tokens = Tokens::from_json(file, None).map_err(|e| e.chain())?;
            Items::Texts {
                tokens: &tokens,
                window: args.window,
                given: &[],
            }
        }
        files => {
            let read = files.iter().map(|f: &PathBuf| read_tensors(Path::new(f)));
            sets = read
                .collect::<onnxq::Result<Vec<_>>>()
                .map_err(|e| e.chain())?;
            Items::Tensors {
                sets: &sets,
                source: "files",
            }
        }
    };
    let start = Instant::now();
    let sites = Sites::of(&model).map_err(|e| e.chain())?.sites;
    let sequence = Sequence::new(engine.as_ref(), &model, sites, items, options);
    let mut sequence = sequence.map_err(|e| e.chain())?;
    let groups = sequence.groups();
    let mut importance = Importance {
        sums: groups.iter().map(|g| vec![0.0; g.k as usize]).collect(),
        rows: vec![0; groups.len()],
        weights: groups
            .iter()
            .map(|g| {
                let matrices = g.weights.iter().map(|w| w.matrix.clone());
                matrices.map(|m| args.replace.then_some(m)).collect()
            })
            .collect(),
    };
    sequence.run(&mut importance).map_err(|e| e.chain())?;
    let mut tensors = Vec::new();
    for (g, group) in sequence.groups().iter().enumerate() {
        let rows = importance.rows[g] as f64;
        let mean: Vec<f32> = importance.sums[g]
            .iter()
            .map(|s| (s / rows) as f32)
            .collect();
        for site in group.weights.iter().flat_map(|w| &w.sites) {
            if rows > 0.0 && site.activation.is_some() {
                let name = model.node_name(site.node).to_string();
                tensors.push((name, Array::new(vec![mean.len()], mean.clone())));
            }
        }
    }
    write_tensors(out, &tensors).map_err(|e| e.chain())?;
    let groups = importance.rows.len();
    let rows: u64 = importance.rows.iter().sum();
    let seconds = start.elapsed().as_secs_f64();
    writeln!(
        std::io::stderr(),
        "{groups} groups, {rows} rows, {seconds:.1} s"
    )?;
    Ok(())
}
