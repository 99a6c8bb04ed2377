//! The pipeline of an output.

use onnxq::{
    Result,
    ir::DataType,
    mix::{Form, Recipe},
    pass::{Options, Pipeline},
    passes::REGISTRY,
    quant::Method,
    target::{self, Targets, Verdict, ZeroPoints},
};

use super::{Decided, Dtype, QuantizeArgs};
use crate::cli::External;

/// The method where there is no calibration. What a pipeline quantizes does not depend on the method.
pub(super) const DATA_FREE: Method = Method::Mse;

/// How weights in blocks are quantized: in which form, and by which method.
#[derive(Clone, Copy)]
pub(super) enum Blocks<'a> {
    /// All alike.
    Alike(Form, Method),
    /// Each as the recipe says.
    Recipe(&'a Recipe, Method),
}

impl QuantizeArgs {
    /// The method by which codes in blocks are chosen.
    pub(super) fn method(&self, decided: &Decided) -> Method {
        match (&decided.recipe, self.method, &self.calibrate.calibrate) {
            (Some(recipe), ..) => recipe.method,
            (None, Some(method), _) => method,
            // The codes of gptq are for the operators of ONNX Runtime.
            (None, None, Some(_)) if self.format.as_deref() == Some("qdq") => Method::Imatrix,
            (None, None, Some(_)) => Method::Gptq,
            (None, None, None) => DATA_FREE,
        }
    }

    /// How the weights of `dtype` are quantized, if in blocks.
    pub(super) fn blocks_of<'a>(
        &self,
        dtype: Dtype,
        decided: &'a Decided,
        method: Method,
    ) -> Result<Option<Blocks<'a>>> {
        if let Some(recipe) = &decided.recipe {
            return Ok(Some(Blocks::Recipe(recipe, method)));
        }
        let alike = |bits| {
            // Blocks of 16 have no fast kernel for 2 bits.
            let block = if bits == 2 { "32" } else { "16" };
            let block = self.block_size.as_deref().unwrap_or(block);
            let block = block.parse().expect("a number, by its declaration");
            let form = Form {
                bits,
                block,
                asymmetric: self.has_zero_points(dtype, bits, block)?,
            };
            Ok(Blocks::Alike(form, method))
        };
        self.bits_of(dtype)?.map(alike).transpose()
    }

    /// Whether blocks of `dtype` get zero points.
    fn has_zero_points(&self, dtype: Dtype, bits: u8, block: usize) -> Result<bool> {
        // Codes of 8 bits have more levels than they need.
        if self.asymmetric || self.symmetric || bits == 8 {
            return Ok(self.asymmetric);
        }
        let float = match dtype.is_half() {
            true => DataType::Float16,
            false => DataType::Float,
        };
        let level = self.accuracy_level.as_ref();
        let level = level.map_or(0, |l| l.parse().expect("a digit, by its declaration"));
        let zero_points = ZeroPoints::Codes;
        let form = target::Form::matmul_nbits(bits.into(), block as i64, float, zero_points, level);
        let targets = Targets::parse(self.target.iter().map(String::as_str))?;
        let verdict = targets.verdict(&form);
        Ok(matches!(verdict, Verdict::Runs | Verdict::Slow(_)))
    }

    /// What runs before the quantization.
    pub(super) fn before(&self) -> Result<Pipeline> {
        let text = if self.no_clean { "" } else { &self.passes };
        self.job.pipeline("--passes", text)
    }

    pub(super) fn pipeline(
        &self,
        dtype: Dtype,
        blocks: Option<Blocks<'_>>,
        large: &[(String, f64)],
    ) -> Result<Pipeline> {
        let mut pipeline = self.before()?;
        if let Some(Blocks::Alike(form, Method::Awq)) = blocks {
            scale_channels(&mut pipeline, form)?;
        }
        match (dtype, blocks) {
            (Dtype::Q8, _) => self.int8(&mut pipeline, "auto")?,
            (Dtype::Int8, _) => self.int8(&mut pipeline, "int8")?,
            (Dtype::Uint8, _) => self.int8(&mut pipeline, "uint8")?,
            (Dtype::Fp16, _) => self.half(&mut pipeline, "keep", large)?,
            (_, None) => {}
            (Dtype::Q2f16 | Dtype::Q4f16, Some(blocks)) => {
                self.half(&mut pipeline, "cache", large)?;
                self.blocks(&mut pipeline, blocks)?;
            }
            (_, Some(blocks)) => self.blocks(&mut pipeline, blocks)?,
        }
        Ok(pipeline)
    }

    /// Half precision; `io` says what becomes of inputs and outputs unless told otherwise.
    fn half(&self, pipeline: &mut Pipeline, io: &str, large: &[(String, f64)]) -> Result<()> {
        let pass = REGISTRY.pass("fp16").expect("fp16 is registered");
        let mut options = Options::none(pass.options);
        options.set("io", Some(self.io_types.as_deref().unwrap_or(io)))?;
        for glob in &self.exclude {
            options.set("exclude", Some(glob))?;
        }
        for (name, most) in large {
            options.set("peak", Some(&format!("{name}={most:.4e}")))?;
        }
        pipeline.push(pass, options)
    }

    /// Weights and activations of 8 bits; `weights` is the type of the weights.
    fn int8(&self, pipeline: &mut Pipeline, weights: &str) -> Result<()> {
        let pass = REGISTRY
            .pass("int8-dynamic")
            .expect("int8-dynamic is registered");
        let mut options = Options::none(pass.options);
        options.set("weights", Some(weights))?;
        if self.asymmetric {
            options.set("asymmetric", None)?;
        }
        self.common(&mut options)?;
        pipeline.push(pass, options)
    }

    /// Weights in blocks.
    fn blocks(&self, pipeline: &mut Pipeline, blocks: Blocks<'_>) -> Result<()> {
        match blocks {
            // Of what was scaled before.
            Blocks::Alike(form, Method::Awq) => self.nbits(pipeline, form, Method::Imatrix, &[]),
            Blocks::Alike(form, method) => self.nbits(pipeline, form, method, &[]),
            Blocks::Recipe(recipe, method) => {
                for form in recipe.forms() {
                    let own = recipe.weights.iter().filter(|e| e.form() == form);
                    let names: Vec<&str> = own.map(|e| &*e.name).collect();
                    // Without zero points there is nothing for hqq to choose.
                    let fits = method != Method::Hqq || form.asymmetric;
                    let method = if fits { method } else { Method::Rtn };
                    self.nbits(pipeline, form, method, &names)?;
                }
                Ok(())
            }
        }
    }

    /// Weights in blocks of one form: those with these names, or all.
    fn nbits(
        &self,
        pipeline: &mut Pipeline,
        form: Form,
        method: Method,
        names: &[&str],
    ) -> Result<()> {
        let pass = REGISTRY.pass("nbits").expect("nbits is registered");
        let mut options = Options::none(pass.options);
        set_form(&mut options, form)?;
        if method != Method::Rtn {
            options.set("method", Some(method.name()))?;
        }
        if let Some(format) = &self.format {
            options.set("format", Some(format))?;
        }
        if let Some(level) = &self.accuracy_level {
            options.set("accuracy-level", Some(level))?;
        }
        self.common(&mut options)?;
        for name in names {
            options.set("weight", Some(&globset::escape(name)))?;
        }
        if self.job.write.external_data == External::Always {
            options.set("tie", Some("alias"))?;
        }
        pipeline.push(pass, options)
    }

    /// Which weights are quantized at all, and what they must run on.
    fn common(&self, options: &mut Options) -> Result<()> {
        for target in &self.target {
            options.set("target", Some(target))?;
        }
        for glob in &self.include {
            options.set("include", Some(glob))?;
        }
        for glob in &self.exclude {
            options.set("exclude", Some(glob))?;
        }
        if self.allow_nonfinite {
            options.set("nonfinite", Some("skip"))?;
        }
        Ok(())
    }
}

/// Scales channels for weights that will be quantized in this form.
fn scale_channels(pipeline: &mut Pipeline, form: Form) -> Result<()> {
    let pass = REGISTRY.pass("awq").expect("awq is registered");
    let mut options = Options::none(pass.options);
    set_form(&mut options, form)?;
    pipeline.push(pass, options)
}

/// The options by which a pass is told of a form.
fn set_form(options: &mut Options, form: Form) -> Result<()> {
    options.set("bits", Some(&form.bits.to_string()))?;
    options.set("block", Some(&form.block.to_string()))?;
    if form.asymmetric {
        options.set("asymmetric", None)?;
    }
    Ok(())
}
