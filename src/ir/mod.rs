//! The intermediate representation: a [`Model`] of graphs, nodes and values in arenas,
//! keyed by typed ids.
//!
//! No type of the wire format appears here; `onnx` converts both ways without losing
//! anything. Passes read the model freely and change it through [`edit`].

mod callees;
pub mod data;
pub mod edit;
mod entity;
mod model;
mod scope;
mod tensor;
mod types;

pub use callees::{CallOrder, Callees};
pub use data::{Data, Produce, SourceFile};
pub use entity::{Arena, EntityId, GraphId, NodeId, SideTable, ValueId};
pub use model::{
    Attribute, AttributeKind, AttributeValue, AttributeWire, Constant, Def, Function, Graph,
    GraphOutput, Model, Node, OpsetImport, Property, Value, ValueInfo,
};
pub use scope::{Use, Uses};
pub use tensor::{Elements, SparseTensor, Tensor, TensorWire, element_count};
pub use types::{DataType, Dim, DimSize, TensorType, Type, TypeKind};

/// A shared string.
pub type Str = std::sync::Arc<str>;
