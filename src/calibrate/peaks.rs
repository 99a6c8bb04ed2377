//! Values that half precision cannot hold, measured once for a model, what it is fed, and an engine.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{feed::Feed, folder::Identity, planned::digest_of, store::cannot};
use crate::{
    engine::{Engine, LoadOptions},
    error::{Error, Result},
    eval::{Items, measure},
    ir::Model,
    output_file::write_whole,
};

/// The form of the file, and what is measured. Another number is another form.
const FORMAT: u32 = 1;

/// What [`beyond_half`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct BeyondHalf {
    /// Names of values that half precision should not hold, in order, and the largest magnitude of each.
    pub values: Vec<(String, f64)>,
    /// The file of an earlier run that had them.
    pub kept: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    run: Identity,
    /// Magnitudes as the bits of `f64`: decimal digits need not tell the last one.
    beyond_half: Vec<(String, u64)>,
}

/// Runs `model` over `items` and finds the values that half precision should not hold:
/// [`Maxima::beyond_half`](crate::maxima::Maxima::beyond_half). With a `folder`, what an earlier run has put there is
/// taken instead, if it was for the same model, items and engine.
///
/// # Errors
/// As [`measure`]; the folder cannot be read or written.
pub fn beyond_half(
    engine: &dyn Engine,
    model: &Model,
    items: Items<'_>,
    load: LoadOptions,
    folder: Option<&Path>,
) -> Result<BeyondHalf> {
    let measured = || -> Result<Vec<(String, f64)>> {
        let maxima = measure(engine, model, items, load)?;
        let beyond = maxima.beyond_half();
        Ok(beyond.map(|(name, most)| (name.to_owned(), most)).collect())
    };
    let Some(folder) = folder else {
        return Ok(BeyondHalf {
            values: measured()?,
            kept: None,
        });
    };
    let run = Identity::of(engine, model, &Feed::new(model, items)?, load)?;
    let name = format!("peaks-{}.json", &digest_of(&run)[..12]);
    let path = folder.join(name);
    if let Some(values) = read(&path, &run)? {
        return Ok(BeyondHalf {
            values,
            kept: Some(path),
        });
    }
    let values = measured()?;
    fs::create_dir_all(folder).map_err(|e| cannot("create", folder, e))?;
    write(&path, run, &values)?;
    Ok(BeyondHalf { values, kept: None })
}

/// What the file has, if it is of this `run`. One that is damaged is written anew.
fn read(path: &Path, run: &Identity) -> Result<Option<Vec<(String, f64)>>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|e| cannot("read", path, e))?,
    };
    let file = serde_json::from_slice::<File>(&bytes).ok();
    let file = file.filter(|file| file.format == FORMAT && file.run == *run);
    let number = |(name, bits)| (name, f64::from_bits(bits));
    Ok(file.map(|file| file.beyond_half.into_iter().map(number).collect()))
}

fn write(path: &Path, run: Identity, values: &[(String, f64)]) -> Result<()> {
    let bits = |(name, most): &(String, f64)| (name.clone(), most.to_bits());
    let file = File {
        format: FORMAT,
        run,
        beyond_half: values.iter().map(bits).collect(),
    };
    let text = serde_json::to_vec_pretty(&file)
        .map_err(|e| Error::input("the values half precision cannot hold").with_source(e))?;
    write_whole(path, &text)
}
