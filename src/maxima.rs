//! How large the values of a model get: measured, kept in a file, read by passes.
//!
//! ```json
//! {"schema": 1, "maxima": {"/layers.0/add": 1043.5, "/layers.1/add": 131072.0}}
//! ```

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    ir::Str,
};

/// The form of the file that this version writes, and the newest that it reads.
const SCHEMA: u32 = 1;

/// What stands for infinity, which a file has no number for: more than any float.
pub const INFINITE: f64 = 1e39;

/// The largest number of half precision, 65504, by two: with other inputs than those measured a
/// value may well be twice as large.
const HALF_MOST: f64 = 65504.0 / 2.0;

/// The least number that half has with all of its 11 bits, 2^-14. When even the largest element is
/// below it, as that of a reciprocal of large numbers, all lose bits.
pub(crate) const HALF_LEAST: f64 = 1.0 / 16384.0;

/// Whether a value that was measured to reach `most`, its largest magnitude, is one that half
/// precision should not hold: too large, or all of it too small.
pub fn is_beyond_half(most: f64) -> bool {
    most > HALF_MOST || 0.0 < most && most < HALF_LEAST
}

/// The largest magnitude that was seen of each of some values, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Maxima {
    values: BTreeMap<Str, f64>,
    /// Whether all others were measured as well, and half precision holds them.
    others_fit: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: u32,
    maxima: BTreeMap<String, f64>,
}

impl Maxima {
    /// Records that `value` reached `magnitude`; the largest counts. Infinity and NaN count as
    /// [`INFINITE`].
    pub fn record(&mut self, value: &str, magnitude: f64) {
        let magnitude = match magnitude.is_finite() {
            true => magnitude.abs(),
            false => INFINITE,
        };
        let most = self.values.entry(value.into()).or_default();
        *most = most.max(magnitude);
    }

    /// Records that every value was measured, and half precision holds those that are not recorded.
    pub fn record_others_fit(&mut self) {
        self.others_fit = true;
    }

    /// Whether every value was measured, and half precision holds those that are not recorded.
    pub fn others_fit(&self) -> bool {
        self.others_fit
    }

    /// The largest magnitude that was seen of the value `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// All of them, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values.iter().map(|(name, &most)| (&**name, most))
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The values that half precision should not hold, in order of name: see [`is_beyond_half`].
    pub fn beyond_half(&self) -> impl Iterator<Item = (&str, f64)> {
        self.iter().filter(|&(_, most)| is_beyond_half(most))
    }

    /// Adds what the file at `path` has.
    ///
    /// # Errors
    /// It cannot be read, or is no such file.
    pub fn read(&mut self, path: &Path) -> Result<()> {
        let at = |e: Error| e.at(format!("`{}`", path.display()));
        let bytes =
            std::fs::read(path).map_err(|e| Error::io(format!("`{}`", path.display()), e))?;
        let form = "expected `{\"schema\": 1, \"maxima\": {NAME: NUMBER, ...}}`";
        let file: File = serde_json::from_slice(&bytes)
            .map_err(|e| at(Error::input(format!("no file of maxima; {form}")).with_source(e)))?;
        if file.schema > SCHEMA {
            let found = file.schema;
            return Err(at(Error::unsupported(format!(
                "maxima of schema {found}; this version reads up to {SCHEMA}"
            ))));
        }
        for (name, most) in &file.maxima {
            self.record(name, *most);
        }
        Ok(())
    }

    /// The text of a file.
    pub fn to_json(&self) -> String {
        let file = File {
            schema: SCHEMA,
            maxima: self.iter().map(|(n, x)| (n.to_owned(), x)).collect(),
        };
        let text = serde_json::to_string_pretty(&file).expect("finite numbers by strings");
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_round_trips() {
        let mut maxima = Maxima::default();
        for (name, x) in [("b", -2.5), ("b", 1.0), ("a=\"", f64::NAN), ("c", 0.0)] {
            maxima.record(name, x);
        }
        assert_eq!((maxima.get("b"), maxima.get("d")), (Some(2.5), None));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("maxima.json");
        std::fs::write(&path, maxima.to_json()).unwrap();
        let mut read = Maxima::default();
        read.read(&path).unwrap();
        assert_eq!(read, maxima);
        assert_eq!(read.get("a=\""), Some(INFINITE));
    }

    #[test]
    fn what_is_no_such_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("maxima.json");
        for (text, expected) in [
            ("[]", "no file of maxima"),
            ("{\"schema\": 1}", "missing field `maxima`"),
            (
                "{\"schema\": 2, \"maxima\": {}}",
                "this version reads up to 1",
            ),
            (
                "{\"schema\": 1, \"maxima\": {\"a\": \"b\"}}",
                "invalid type",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Maxima::default().read(&path).unwrap_err().chain();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Maxima::default().read(&folder.path().join("none")).is_err());
    }
}
