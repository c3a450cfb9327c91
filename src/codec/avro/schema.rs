//! Avro's schemas as they stand in JSON, with their names resolved.

use serde_json::{Map, Value};
use std::collections::HashMap;

/// A schema may have this many types; more is taken for an attack on memory.
const TYPES_MAX: usize = 10_000;
/// Digits behind a decimal's point.
const SCALE_MAX: u64 = 38;

/// Why a text is no schema that can be read with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The text is not JSON.
    #[error("it is not JSON: {0}")]
    NotJson(String),
    /// A type is not Avro's, or lacks what its kind needs.
    #[error("`{0}` is not a type of Avro")]
    Type(String),
    /// A name that nothing defines.
    #[error("nothing defines the name `{0}`")]
    Name(String),
    /// It is too large, or nested too deep.
    #[error("it has more than {TYPES_MAX} types or is nested too deep")]
    TooLarge,
}

/// A place in the schema's list of types: recursion needs no pointers.
pub(super) type Node = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logical {
    None,
    Millis,
    Micros,
    Nanos,
    Date,
    Decimal(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Boolean,
    Int(Logical),
    Long(Logical),
    Float,
    Double,
    Bytes(Logical),
    Fixed(usize, Logical),
    String,
    Enum(Vec<String>),
    Union(Vec<Node>),
    Record(Vec<(String, Node)>),
    Array(Node),
    Map(Node),
}

/// A schema with which data were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    types: Vec<Type>,
    pub(super) root: Node,
}

impl Schema {
    /// Reads a schema. `references` are the texts of schemas that it names, each after those that it names itself.
    ///
    /// # Errors
    /// [`SchemaError`] where a text is no schema.
    pub fn parse(text: &str, references: &[String]) -> Result<Self, SchemaError> {
        let mut parser = Parser { types: Vec::new(), names: HashMap::new() };
        for reference in references {
            parser.text(reference)?;
        }
        let root = parser.text(text)?;
        Ok(Self { types: parser.types, root })
    }

    pub(super) fn of(&self, node: Node) -> &Type {
        &self.types[node]
    }
}

struct Parser {
    types: Vec<Type>,
    names: HashMap<String, Node>,
}

impl Parser {
    fn text(&mut self, text: &str) -> Result<Node, SchemaError> {
        let value: Value = serde_json::from_str(text).map_err(|e| SchemaError::NotJson(e.to_string()))?;
        self.node(&value, "")
    }

    fn push(&mut self, one: Type) -> Result<Node, SchemaError> {
        if self.types.len() >= TYPES_MAX {
            return Err(SchemaError::TooLarge);
        }
        self.types.push(one);
        Ok(self.types.len() - 1)
    }

    /// serde_json bounds the depth of the value that is walked here.
    fn node(&mut self, value: &Value, space: &str) -> Result<Node, SchemaError> {
        match value {
            Value::String(name) => self.named(name, space),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.node(branch, space)).collect::<Result<_, _>>()?;
                self.push(Type::Union(branches))
            }
            Value::Object(object) => self.object(object, space),
            other => Err(SchemaError::Type(other.to_string())),
        }
    }

    fn named(&mut self, name: &str, space: &str) -> Result<Node, SchemaError> {
        if let Some(primitive) = primitive(name, Logical::None) {
            return self.push(primitive);
        }
        let found = self.names.get(&full(name, space)).or_else(|| self.names.get(name));
        found.copied().ok_or_else(|| SchemaError::Name(name.to_owned()))
    }

    fn object(&mut self, object: &Map<String, Value>, space: &str) -> Result<Node, SchemaError> {
        let wrong = || SchemaError::Type(Value::Object(object.clone()).to_string().chars().take(200).collect());
        let kind = match object.get("type").ok_or_else(wrong)? {
            Value::String(kind) => kind.as_str(),
            nested => return self.node(nested, space),
        };
        let logical = logical(object);
        match kind {
            "record" | "error" => self.record(object, space).and_then(|node| node.ok_or_else(wrong)),
            "enum" => {
                let symbols = object.get("symbols").and_then(Value::as_array).ok_or_else(wrong)?;
                let symbols = symbols.iter().map(|s| s.as_str().map(str::to_owned)).collect::<Option<_>>();
                let node = self.push(Type::Enum(symbols.ok_or_else(wrong)?))?;
                self.define(object, space, node).ok_or_else(wrong)?;
                Ok(node)
            }
            "fixed" => {
                let size = object.get("size").and_then(Value::as_u64).and_then(|s| usize::try_from(s).ok());
                let node = self.push(Type::Fixed(size.ok_or_else(wrong)?, logical))?;
                self.define(object, space, node).ok_or_else(wrong)?;
                Ok(node)
            }
            "array" => {
                let items = self.node(object.get("items").ok_or_else(wrong)?, space)?;
                self.push(Type::Array(items))
            }
            "map" => {
                let values = self.node(object.get("values").ok_or_else(wrong)?, space)?;
                self.push(Type::Map(values))
            }
            name => match primitive(name, logical) {
                Some(primitive) => self.push(primitive),
                None => self.named(name, space),
            },
        }
    }

    /// A record is named before its fields are read: they may name it.
    fn record(&mut self, object: &Map<String, Value>, space: &str) -> Result<Option<Node>, SchemaError> {
        let node = self.push(Type::Null)?;
        let Some(space) = self.define(object, space, node) else { return Ok(None) };
        let Some(fields) = object.get("fields").and_then(Value::as_array) else { return Ok(None) };
        let mut read = Vec::with_capacity(fields.len());
        for field in fields {
            let (Some(name), Some(kind)) = (field.get("name").and_then(Value::as_str), field.get("type")) else {
                return Ok(None);
            };
            read.push((name.to_owned(), self.node(kind, &space)?));
        }
        self.types[node] = Type::Record(read);
        Ok(Some(node))
    }

    /// Remembers a named type and returns the namespace that it opens.
    fn define(&mut self, object: &Map<String, Value>, space: &str, node: Node) -> Option<String> {
        let name = object.get("name")?.as_str()?;
        let space = object.get("namespace").and_then(Value::as_str).unwrap_or(space);
        let full = full(name, space);
        let opened = full.rsplit_once('.').map_or(String::new(), |(space, _)| space.to_owned());
        self.names.insert(full, node);
        Some(opened)
    }
}

fn full(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_owned() } else { format!("{space}.{name}") }
}

fn primitive(name: &str, logical: Logical) -> Option<Type> {
    Some(match name {
        "null" => Type::Null,
        "boolean" => Type::Boolean,
        "int" => Type::Int(logical),
        "long" => Type::Long(logical),
        "float" => Type::Float,
        "double" => Type::Double,
        "bytes" => Type::Bytes(logical),
        "string" => Type::String,
        _ => return None,
    })
}

/// A logical type that is not known is ignored, as the specification says.
fn logical(object: &Map<String, Value>) -> Logical {
    let scale = object.get("scale").and_then(Value::as_u64).unwrap_or(0).min(SCALE_MAX);
    match object.get("logicalType").and_then(Value::as_str) {
        Some("timestamp-millis" | "local-timestamp-millis") => Logical::Millis,
        Some("timestamp-micros" | "local-timestamp-micros") => Logical::Micros,
        Some("timestamp-nanos" | "local-timestamp-nanos") => Logical::Nanos,
        Some("date") => Logical::Date,
        Some("decimal") => Logical::Decimal(usize::try_from(scale).expect("the scale is bounded")),
        _ => Logical::None,
    }
}
