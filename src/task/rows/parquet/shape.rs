//! The schema of a parquet file as a tree: which structs, lists and maps its columns of plain values (leaves) make up.
//!
//! A parquet file has no nested values. It has a column for every leaf, and two levels with every value. The definition
//! level says how many of the optional or repeated fields on the way to the leaf are there, the repetition level which
//! repeated field begins a new entry (Melnik et al. 2010, "Dremel").

use std::sync::Arc;

use ::parquet::basic::{ConvertedType, Repetition};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::schema::types::Type;

/// A field of the schema.
pub(super) struct Shape {
    pub(super) name: Arc<str>,
    pub(super) levels: Levels,
    pub(super) kind: Kind,
}

/// Where a field stands among optional and repeated fields.
#[derive(Clone, Copy, Default)]
pub(super) struct Levels {
    /// The number of lists around it.
    pub(super) repetition: i16,
    /// An entry has a place for the field if its definition level is at least this one.
    pub(super) place: i16,
    /// The field is not null if the entry's definition level is at least this one.
    pub(super) present: i16,
}

impl Levels {
    /// The levels of what a list with these levels contains.
    pub(super) fn inside(self) -> Self {
        let present = self.present + 1;
        Self { repetition: self.repetition + 1, place: present, present }
    }
}

pub(super) enum Kind {
    /// The number of the leaf.
    Leaf(usize),
    Struct(Vec<Shape>),
    List(Box<Shape>),
    Map(Box<[Shape; 2]>),
}

impl Shape {
    /// The fields of the file's `root` that are `used`, as a struct.
    ///
    /// # Errors
    /// A struct without fields.
    pub(super) fn of_file(root: &Type, used: impl Fn(&str) -> bool) -> Result<Self> {
        let mut next_leaf = 0;
        let fields = root.get_fields().iter().map(|it| Self::of(it, Levels::default(), &mut next_leaf));
        let mut fields = fields.collect::<Result<Vec<_>>>()?;
        fields.retain(|it| used(&it.name));
        Ok(Self { name: root.name().into(), levels: Levels::default(), kind: Kind::Struct(fields) })
    }

    /// A field in a struct or list that has the `outer` levels.
    fn of(field: &Type, outer: Levels, next_leaf: &mut usize) -> Result<Self> {
        let own = |present| Levels { present, ..outer };
        match field.get_basic_info().repetition() {
            Repetition::REQUIRED => Self::content(field, own(outer.present), next_leaf),
            Repetition::OPTIONAL => Self::content(field, own(outer.present + 1), next_leaf),
            Repetition::REPEATED => {
                let items = Self::content(field, outer.inside(), next_leaf)?;
                Ok(Self { name: field.name().into(), levels: outer, kind: Kind::List(Box::new(items)) })
            }
        }
    }

    fn content(field: &Type, levels: Levels, next_leaf: &mut usize) -> Result<Self> {
        let kind = if field.is_primitive() {
            *next_leaf += 1;
            Kind::Leaf(*next_leaf - 1)
        } else {
            match (field.get_basic_info().converted_type(), repeated_child(field)) {
                (ConvertedType::LIST, Some(child)) => Self::list(child, levels.inside(), next_leaf)?,
                (ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, Some(child)) if child.is_group() => {
                    Self::map(child, levels.inside(), next_leaf)?
                }
                _ => Self::fields(field, levels, next_leaf)?,
            }
        };
        Ok(Self { name: field.name().into(), levels, kind })
    }

    fn list(child: &Type, inside: Levels, next_leaf: &mut usize) -> Result<Kind> {
        let items = match is_element(child) {
            true => Self::content(child, inside, next_leaf)?,
            false => Self::of(&child.get_fields()[0], inside, next_leaf)?,
        };
        Ok(Kind::List(Box::new(items)))
    }

    /// A map without values is the list of its keys.
    fn map(child: &Type, inside: Levels, next_leaf: &mut usize) -> Result<Kind> {
        let mut field = |it: &Type| Self::of(it, inside, next_leaf);
        Ok(match child.get_fields() {
            [key] => Kind::List(Box::new(field(key)?)),
            [key, value] => Kind::Map(Box::new([field(key)?, field(value)?])),
            _ => return Err(ParquetError::General(format!("the map {} has not two fields", child.name()))),
        })
    }

    fn fields(field: &Type, levels: Levels, next_leaf: &mut usize) -> Result<Kind> {
        if field.get_fields().is_empty() {
            return Err(ParquetError::General(format!("the struct {} has no fields", field.name())));
        }
        let fields = field.get_fields().iter().map(|it| Self::of(it, levels, next_leaf));
        Ok(Kind::Struct(fields.collect::<Result<_>>()?))
    }

    /// The numbers of all leaves, in order.
    pub(super) fn leaves(&self) -> Vec<usize> {
        match &self.kind {
            Kind::Leaf(number) => vec![*number],
            Kind::Struct(fields) => fields.iter().flat_map(Self::leaves).collect(),
            Kind::List(items) => items.leaves(),
            Kind::Map(entry) => entry.iter().flat_map(Self::leaves).collect(),
        }
    }

    /// The number of the first leaf. The levels of all leaves say the same about this field.
    pub(super) fn first_leaf(&self) -> Option<usize> {
        match &self.kind {
            Kind::Leaf(number) => Some(*number),
            Kind::Struct(fields) => fields.first()?.first_leaf(),
            Kind::List(items) => items.first_leaf(),
            Kind::Map(entry) => entry[0].first_leaf(),
        }
    }
}

/// The only child of a group, if it is repeated.
fn repeated_child(group: &Type) -> Option<&Type> {
    match group.get_fields() {
        [child] if child.get_basic_info().repetition() == Repetition::REPEATED => Some(child),
        _ => None,
    }
}

/// Whether the repeated field of a list is the element itself, as older programs write it, and not a struct around the
/// element. The rules are those of the format (parquet-format, LogicalTypes.md, "Backward-compatibility rules").
fn is_element(repeated: &Type) -> bool {
    if repeated.is_primitive() {
        return true;
    }
    let nested =
        repeated.get_basic_info().converted_type() == ConvertedType::LIST || repeated_child(repeated).is_some();
    let old_name = repeated.name() == "array" || repeated.name().ends_with("_tuple");
    !nested && (repeated.get_fields().len() != 1 || old_name)
}
