//! Which weight is quantized how, as a file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    pass::QuantizedWeight,
    quant::Method,
    weights::WeightKey,
};

/// The version of the format.
const VERSION: u32 = 1;

/// The head of a file.
const HEAD: &str = "\
# How each weight is quantized. `onnxq quantize MODEL --recipe FILE` makes the same model again;
# weights may be changed (bits 2, 4 or 8; block 16 to 256), or taken out, which leaves them float.
";

/// Which weight is quantized how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    version: u32,
    /// The name of what is made, as `--dtype` has it.
    pub dtype: String,
    /// By which method codes are chosen.
    #[serde(with = "by_name")]
    pub method: Method,
    /// What they are chosen on, where the method wants that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The weights, in the order of the model.
    #[serde(rename = "weight")]
    pub weights: Vec<Entry>,
}

/// What codes are chosen on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// SHA-256 of the file.
    pub sha256: String,
    /// Tokens of a window.
    pub window: usize,
    /// Windows; absent for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<usize>,
}

/// A weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name of the constant.
    pub name: String,
    /// Rows, and terms of a product.
    pub shape: [u64; 2],
    /// Bits of a code.
    pub bits: u8,
    /// Elements of a block.
    pub block: usize,
    /// Whether blocks have zero points.
    pub asymmetric: bool,
}

/// A form that a weight may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Bits of a code.
    pub bits: u8,
    /// Elements of a block.
    pub block: usize,
    /// Whether blocks have zero points.
    pub asymmetric: bool,
}

impl Form {
    /// The form that the most weights can have.
    pub const EIGHT_BITS: Form = Form {
        bits: 8,
        block: 64,
        asymmetric: false,
    };
}

impl Entry {
    /// Of the weight `key`.
    pub fn new(key: &WeightKey, form: Form) -> Entry {
        let Form {
            bits,
            block,
            asymmetric,
        } = form;
        Entry {
            name: key.name.clone(),
            shape: [key.n, key.k],
            bits,
            block,
            asymmetric,
        }
    }

    /// How it is quantized.
    pub fn form(&self) -> Form {
        Form {
            bits: self.bits,
            block: self.block,
            asymmetric: self.asymmetric,
        }
    }
}

impl Recipe {
    /// A recipe of the newest version.
    pub fn new(
        dtype: &str,
        method: Method,
        calibration: Option<Calibration>,
        weights: Vec<Entry>,
    ) -> Recipe {
        Recipe {
            version: VERSION,
            dtype: dtype.to_owned(),
            method,
            calibration,
            weights,
        }
    }

    /// Reads `text`, of a file called `name` in messages.
    ///
    /// # Errors
    /// It is no recipe, or of another version: where, and what was expected.
    pub fn parse(text: &str, name: &Path) -> Result<Recipe> {
        let at = |e: Error| e.at(format!("`{}`", name.display()));
        let recipe: Recipe = toml::from_str(text).map_err(|e| at(Error::input(e.to_string())))?;
        let expected = |what: String| Err(at(Error::input(what)));
        if recipe.version != VERSION {
            return expected(format!("version {}, expected {VERSION}", recipe.version));
        }
        for (i, entry) in recipe.weights.iter().enumerate() {
            let Entry {
                name, bits, block, ..
            } = entry;
            if !matches!(bits, 2 | 4 | 8) {
                return expected(format!("weight `{name}`: {bits} bits, expected 2, 4 or 8"));
            }
            if !matches!(block, 16 | 32 | 64 | 128 | 256) {
                return expected(format!(
                    "weight `{name}`: a block of {block}, expected 16, 32, 64, 128 or 256"
                ));
            }
            if recipe.weights[..i].iter().any(|e| e.name == *name) {
                return expected(format!("weight `{name}` is there twice"));
            }
        }
        Ok(recipe)
    }

    /// The text of the file.
    ///
    /// # Errors
    /// None that is known.
    pub fn text(&self) -> Result<String> {
        let text = toml::to_string(self).map_err(|e| Error::input(e.to_string()))?;
        Ok(format!("{HEAD}{text}"))
    }

    /// The forms there are, each once, in order of their first weights.
    pub fn forms(&self) -> Vec<Form> {
        let mut forms: Vec<Form> = Vec::new();
        for form in self.weights.iter().map(Entry::form) {
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        forms
    }

    /// Checks that all weights are among those of a model that can be quantized.
    ///
    /// # Errors
    /// One is not, or has another shape: the recipe is for another model.
    pub fn check(&self, model: &[QuantizedWeight]) -> Result<()> {
        for entry in &self.weights {
            let found = model.iter().find(|w| w.name == entry.name);
            let message = match found {
                Some(w) if w.shape == entry.shape => continue,
                Some(w) => format!(
                    "has the shape {:?}, the recipe says {:?}",
                    w.shape, entry.shape
                ),
                None => "is none of the model's weights that can be quantized".to_owned(),
            };
            return Err(Error::input(format!(
                "the recipe is for another model: weight `{}` {message}",
                entry.name
            )));
        }
        Ok(())
    }
}

/// A method in a file: its name.
mod by_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Method;

    pub(super) fn serialize<S: Serializer>(method: &Method, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(method.name())
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Method, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        let entry = |name: &str, bits, block| Entry {
            name: name.to_owned(),
            shape: [64, 32],
            bits,
            block,
            asymmetric: bits == 4,
        };
        let calibration = Calibration {
            sha256: "ab".to_owned(),
            window: 256,
            windows: Some(32),
        };
        let weights = vec![entry("a.weight", 4, 16), entry("b \"quoted\"", 8, 64)];
        Recipe::new("q4f16", Method::Gptq, Some(calibration), weights)
    }

    #[test]
    fn text_and_back() {
        let recipe = recipe();
        let text = recipe.text().unwrap();
        assert_eq!(Recipe::parse(&text, Path::new("r")).unwrap(), recipe);
        assert!(text.contains("[[weight]]\nname = \"a.weight\""), "{text}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = recipe().text().unwrap();
        let message = |from: &str, to: &str| {
            let text = text.replacen(from, to, 1);
            Recipe::parse(&text, Path::new("r.toml"))
                .unwrap_err()
                .chain()
        };
        assert!(message("version = 1", "version = 2").contains("version 2, expected 1"));
        assert!(message("bits = 4", "bits = 5").contains("`a.weight`: 5 bits, expected 2, 4 or 8"));
        assert!(message("block = 64", "block = 48").contains("a block of 48"));
        assert!(message("bits = 4", "bit = 4").contains("unknown field `bit`"));
        assert!(message("\"a.weight\"", "'b \"quoted\"'").contains("is there twice"));
        assert!(
            message("\"gptq\"", "\"best\"").contains("unknown method `best`; expected one of rtn")
        );
        assert!(message("[[weight]]", "[[weight").contains("r.toml"));
    }
}
