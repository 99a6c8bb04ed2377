//! rten: pure Rust, part of onnxq.

use std::{
    borrow::Cow,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use rten::{ModelOptions, RunOptions, ThreadPool, Value, ValueOrView, ValueView};
use rten_tensor::Layout;

use super::{Array, Elements, Engine, LoadOptions, Program, Session, lower::lower};
use crate::{
    error::{Error, Result},
    ir::{DataType, Model},
    onnx,
};

/// The engine that is always there. It computes float16 as float32, and has no integers above
/// 32 bits; models with operators that it lacks are rewritten before it gets them.
#[derive(Default)]
pub struct Rten {}

impl Rten {
    /// The engine.
    pub fn new() -> Rten {
        Rten {}
    }
}

impl Engine for Rten {
    fn name(&self) -> &'static str {
        "rten"
    }

    fn version(&self) -> &str {
        "0.27"
    }

    fn path(&self) -> Option<&Path> {
        None
    }

    fn load(&self, program: Program<'_>, options: LoadOptions) -> Result<Box<dyn Session>> {
        let model = program.model;
        let outputs = &model.graphs[model.main].outputs;
        let declared = outputs.iter().filter_map(|output| {
            let name = model.values[output.value].name.to_string();
            Some((name, output.info.ty.as_ref()?.as_tensor()?.elem?))
        });
        let lowered = lower(model)?;
        let unchanged = matches!(lowered, Cow::Borrowed(_));
        let file = program.file.filter(|_| unchanged);
        let loaded = guarded("load", || load(&lowered, file, options.optimize))??;
        Ok(Box::new(RtenRun {
            model: loaded,
            declared: declared.collect(),
            pool: Arc::new(ThreadPool::with_num_threads(options.threads)),
        }))
    }
}

/// rten's form of a lowered model, read from `file` where that holds it.
fn load(model: &Model, file: Option<&Path>, optimize: bool) -> Result<rten::Model> {
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(optimize);
    if let Some(file) = file
        // What rten refuses to read from a file, such as a place without a length, may be
        // read from memory.
        && let Ok(loaded) = options.load_file(file)
    {
        return Ok(loaded);
    }
    // rten computes on the constants where they lie, so they are in memory once.
    let memory = onnx::to_memory(model)?;
    if let Some((name, bytes)) = memory.side {
        options.external_data(&name, bytes);
    }
    options
        .load(memory.model)
        .map_err(|e| Error::unsupported("rten refuses the model").with_source(e))
}

/// What `call` gives; a panic inside of rten is an error.
fn guarded<T>(what: &str, call: impl FnOnce() -> T) -> Result<T> {
    // What the call leaves behind is dropped or never used again.
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        let text = text.unwrap_or_else(|| "no message".to_owned());
        Error::unsupported(format!("rten failed to {what} the model: {text}"))
    })
}

struct RtenRun {
    model: rten::Model,
    /// Types of the outputs, which rten's own are narrower than.
    declared: HashMap<String, DataType>,
    pool: Arc<ThreadPool>,
}

impl Session for RtenRun {
    fn run(&mut self, inputs: &[(&str, &Array)], outputs: &[&str]) -> Result<Vec<Array>> {
        let node = |name: &str| {
            self.model
                .find_node(name)
                .ok_or_else(|| Error::input(format!("the model has no value `{name}`")))
        };
        let mut values = Vec::new();
        for (name, array) in inputs {
            let value = to_value(array).map_err(|e| e.at(format!("input `{name}`")))?;
            values.push((node(name)?, value));
        }
        let wanted: Vec<_> = outputs.iter().map(|n| node(n)).collect::<Result<_>>()?;
        let options = RunOptions::default().with_thread_pool(Some(self.pool.clone()));
        let results = guarded("run", || self.model.run(values, &wanted, Some(options)))?
            .map_err(|e| Error::unsupported("rten cannot run the model").with_source(e))?;
        let named = outputs.iter().zip(results);
        named
            .map(|(name, value)| {
                from_value(value, self.declared.get(*name).copied())
                    .map_err(|e| e.at(format!("output `{name}`")))
            })
            .collect()
    }
}

fn to_value(array: &Array) -> Result<ValueOrView<'_>> {
    fn view<'a, T>(array: &Array, v: &'a [T]) -> ValueOrView<'a>
    where
        ValueView<'a>: From<rten_tensor::TensorView<'a, T>>,
    {
        let value = ValueView::from_shape(array.dims(), v);
        value
            .expect("an array has as many elements as its extents say")
            .into()
    }
    fn owned<'a, T>(array: &Array, v: Vec<T>) -> ValueOrView<'a>
    where
        Value: From<rten_tensor::Tensor<T>>,
    {
        let value = Value::from_shape(array.dims(), v);
        value
            .expect("an array has as many elements as its extents say")
            .into()
    }
    fn narrow<T: Copy + Into<i128>>(v: &[T]) -> Result<Vec<i32>> {
        v.iter()
            .map(|&x| {
                i32::try_from(x.into()).map_err(|_| {
                    let x: i128 = x.into();
                    Error::unsupported(format!("{x}: rten has no integers above 32 bits"))
                })
            })
            .collect()
    }
    Ok(match array.elements() {
        Elements::Float(v) => view(array, v),
        Elements::Int32(v) => view(array, v),
        Elements::Int8(v) => view(array, v),
        Elements::Uint8(v) => view(array, v),
        Elements::Int64(v) => owned(array, narrow(v)?),
        Elements::Int16(v) => owned(array, narrow(v)?),
        Elements::Uint16(v) => owned(array, narrow(v)?),
        Elements::Uint32(v) => owned(array, narrow(v)?),
        Elements::Uint64(v) => owned(array, narrow(v)?),
        Elements::Bool(v) => owned(array, v.iter().map(|&b| i32::from(b)).collect()),
        Elements::Float16(_) | Elements::Bfloat16(_) | Elements::Double(_) => {
            owned(array, array.to_f32().expect("they are numbers"))
        }
    })
}

/// The array that `value` is; of the type `declared` where rten has but a wider or narrower
/// type for it, except that halves stay float32.
fn from_value(value: Value, declared: Option<DataType>) -> Result<Array> {
    Ok(match value {
        Value::FloatTensor(t) => {
            let (dims, v) = (t.shape().to_vec(), t.into_data());
            match declared {
                Some(DataType::Double) => Array::new(dims, v.into_iter().map(f64::from).collect()),
                _ => Array::new(dims, v),
            }
        }
        Value::Int32Tensor(t) => {
            let (dims, v) = (t.shape().to_vec(), t.into_data());
            match declared {
                Some(DataType::Int64) => Array::new(dims, v.into_iter().map(i64::from).collect()),
                Some(DataType::Bool) => Array::new(dims, v.into_iter().map(|x| x != 0).collect()),
                Some(DataType::Int16) => {
                    Array::new(dims, v.into_iter().map(|x| x as i16).collect())
                }
                Some(DataType::Uint16) => {
                    Array::new(dims, v.into_iter().map(|x| x as u16).collect())
                }
                Some(DataType::Uint32) => {
                    Array::new(dims, v.into_iter().map(|x| x as u32).collect())
                }
                Some(DataType::Uint64) => {
                    Array::new(dims, v.into_iter().map(|x| x as u64).collect())
                }
                _ => Array::new(dims, v),
            }
        }
        Value::Int8Tensor(t) => Array::new(t.shape().to_vec(), t.into_data()),
        Value::UInt8Tensor(t) => Array::new(t.shape().to_vec(), t.into_data()),
        other => {
            return Err(Error::unsupported(format!(
                "it is a {}, expected a tensor",
                other.dtype()
            )));
        }
    })
}
