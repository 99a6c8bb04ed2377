//! A form for each weight: what a budget decides, or a recipe says.

use std::{path::Path, str::FromStr};

use onnxq::{
    Error, Result,
    mix::{Budget, Calibration, Form, Mix, Recipe},
    quant::Method,
};

use super::{
    Decided, Dtype, QuantizeArgs,
    output::recipe_of,
    pipeline::{Blocks, DATA_FREE},
};
use crate::cli::{
    Cx, ExitStatus,
    calibrate::{Prepared, Survey, check_recipe},
    job::{Demands, Done},
    package::Folder,
};

/// What `--budget` says.
#[derive(Clone, Copy)]
pub(super) enum Spend {
    /// A size.
    Within(Budget),
    /// As little as the limit of the mean divergence allows.
    Least,
}

impl FromStr for Spend {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Spend, String> {
        match text {
            "least" => Ok(Spend::Least),
            _ => text
                .parse()
                .map(Spend::Within)
                .map_err(|e: String| format!("{e}, or `least`")),
        }
    }
}

/// What mixes of one model are made by.
pub(super) struct Mixing<'a> {
    dtype: Dtype,
    method: Method,
    prepared: &'a Prepared<'a>,
    pub(super) survey: Survey<'a>,
    calibration: Calibration,
}

impl QuantizeArgs {
    /// The forms that a budget tries; none without one.
    pub(in crate::cli) fn tried_forms(&self) -> &'static [Form] {
        match self.budget {
            Some(Spend::Within(budget)) => budget.forms(),
            Some(Spend::Least) => Budget::Divergence(0.0).forms(),
            None => &[],
        }
    }

    /// Quantizes each weight in the form that `budget` has for it.
    pub(super) fn spend(
        &self,
        budget: Spend,
        prepared: &Prepared<'_>,
        mut decided: Decided,
        demands: &Demands<'_>,
        cx: &Cx,
    ) -> Result<Done> {
        let dtype = self.one()?;
        if self.method == Some(Method::Awq) {
            return Err(Error::input(format!(
                "--method {}: it scales channels for weights that are all quantized alike, and --budget gives each a \
                 form of its own; expected {} or {}",
                Method::Awq,
                Method::Imatrix,
                Method::Gptq
            )));
        }
        let goal = match (budget, self.check.max_mean_kld()) {
            (Spend::Within(budget), _) => budget,
            (Spend::Least, Some(limit)) => Budget::Divergence(limit),
            (Spend::Least, None) => {
                return Err(Error::input(
                    "--budget least: as little as which divergence allows? expected --max-mean-kld X, too",
                ));
            }
        };
        // What a check would refuse, it refuses before the work.
        drop(
            self.check
                .prepare(&prepared.path, demands.spare.as_ref(), cx)?,
        );
        let alike = |form| {
            let blocks = Blocks::Alike(form, DATA_FREE);
            self.pipeline(dtype, Some(blocks), &decided.large)
        };
        let method = self.method(&decided);
        let mixing = Mixing {
            dtype,
            method,
            prepared,
            survey: prepared.survey(goal.forms(), method, &alike, cx)?,
            calibration: prepared.calibration()?,
        };
        match goal {
            Budget::Divergence(limit) => self.least(limit, &mixing, &mut decided, demands, cx),
            size => {
                let mix = mixing.survey.within(size)?;
                self.mixed(mix, &mixing, &mut decided, demands, cx)
            }
        }
    }

    /// Makes what `mix` says, and its recipe where that meets the demands.
    pub(super) fn mixed(
        &self,
        mix: Mix,
        mixing: &Mixing<'_>,
        decided: &mut Decided,
        demands: &Demands<'_>,
        cx: &Cx,
    ) -> Result<Done> {
        cx.note(&format!(
            "mixed: {:.3} bits a weight, expected mean KLD {:.4}\n",
            mix.bits, mix.cost
        ));
        let calibration = Some(mixing.calibration.clone());
        let dtype = mixing.dtype.name();
        let recipe = Recipe::new(dtype, mixing.method, calibration, mix.entries);
        decided.recipe = Some(recipe);
        decided.calibrated = self.calibrated(Some(mixing.prepared), decided, cx)?;
        let done = self.write(decided, demands, cx)?;
        if done.status == ExitStatus::Done {
            self.write_recipe(mixing.prepared, decided, demands.folder, cx)?;
        }
        Ok(done)
    }

    /// Writes the recipe beside the output.
    fn write_recipe(
        &self,
        prepared: &Prepared<'_>,
        decided: &Decided,
        folder: Option<&Folder<'_>>,
        cx: &Cx,
    ) -> Result<()> {
        let Some(recipe) = decided.recipe.as_ref().filter(|_| !self.job.dry_run) else {
            return Ok(());
        };
        let variants = self.variants(decided)?;
        let output = recipe_of(&(variants[0].output)(&prepared.path));
        let (output, place) = match folder {
            Some(folder) => (folder.output(&output), folder.place(&output)?),
            None => (output.clone(), output),
        };
        cx.file(&place, &recipe.text()?)?;
        cx.note(&format!(
            "how each weight is quantized: {}\n",
            output.display()
        ));
        Ok(())
    }

    /// The recipe in the file at `path`.
    pub(super) fn read_recipe(
        &self,
        path: &Path,
        prepared: Option<&Prepared<'_>>,
        large: &[(String, f64)],
        cx: &Cx,
    ) -> Result<Recipe> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|e| Error::io(format!("--recipe `{}`", path.display()), e))?;
        let recipe = Recipe::parse(&text, path)?;
        let dtype = self.one()?;
        if recipe.dtype != dtype.name() {
            return Err(Error::input(format!(
                "--recipe: it is for --dtype {}, found {}",
                recipe.dtype,
                dtype.name()
            )));
        }
        let all = Blocks::Alike(Form::EIGHT_BITS, DATA_FREE);
        let all = self.pipeline(dtype, Some(all), large)?;
        check_recipe(&recipe, &self.job.read, &all, cx)?;
        if let Some(prepared) = prepared {
            prepared.check(&recipe)?;
        }
        Ok(recipe)
    }
}
