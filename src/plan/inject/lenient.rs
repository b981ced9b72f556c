//! Reads JSON of whatever shape. Where something else stands than is expected, that is noted and no error: the API server has its own
//! words for it. Strings are borrowed from what is read, and what nobody asks for is skipped.
use std::{borrow::Cow, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// What can be read from any JSON value.
pub(super) trait Lenient<'de>: Sized {
    /// Where something stands that is not expected.
    fn other() -> Self;

    fn null() -> Self {
        Self::other()
    }

    fn flag(_: bool) -> Self {
        Self::other()
    }

    fn text(_: Cow<'de, str>) -> Self {
        Self::other()
    }

    fn array<A: SeqAccess<'de>>(mut elements: A) -> Result<Self, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::other())
    }

    fn object<A: MapAccess<'de>>(mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::other())
    }
}

/// Reads `value`, whatever it is.
pub(super) fn lenient<'de, T: Lenient<'de>, D: Deserializer<'de>>(value: D) -> Result<T, D::Error> {
    value.deserialize_any(Reader(PhantomData))
}

/// A string, if there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Text<'a>(Option<Cow<'a, str>>);

impl Text<'_> {
    /// It, or an empty one.
    pub(super) fn as_str(&self) -> &str {
        self.get().unwrap_or_default()
    }

    pub(super) fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// An object, if there is one.
#[derive(Clone, Debug)]
pub(super) struct Object<T>(pub(super) Option<T>);

impl<T> Default for Object<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// An array, or what stands in its place.
#[derive(Clone, Debug)]
pub(super) enum List<T> {
    /// Nothing, or null.
    Absent,
    Elements(Vec<T>),
    Other,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::Absent
    }
}

impl<T> List<T> {
    /// The elements; none where it is no array.
    pub(super) fn elements(&self) -> &[T] {
        if let Self::Elements(elements) = self { elements } else { &[] }
    }
}

impl<T> List<Object<T>> {
    /// Those elements that are objects, with their places.
    pub(super) fn objects(&self) -> impl Iterator<Item = (usize, &T)> {
        self.elements()
            .iter()
            .enumerate()
            .filter_map(|(index, Object(object))| Some((index, object.as_ref()?)))
    }
}

/// Whether `true` stands there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flag(pub(super) bool);

impl<'de> Lenient<'de> for Text<'de> {
    fn other() -> Self {
        Self(None)
    }

    fn text(text: Cow<'de, str>) -> Self {
        Self(Some(text))
    }
}

impl Lenient<'_> for Flag {
    fn other() -> Self {
        Self(false)
    }

    fn flag(value: bool) -> Self {
        Self(value)
    }
}

impl<'de, T: Deserialize<'de>> Lenient<'de> for Object<T> {
    fn other() -> Self {
        Self(None)
    }

    fn object<A: MapAccess<'de>>(members: A) -> Result<Self, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Some).map(Self)
    }
}

impl<'de, T: Deserialize<'de>> Lenient<'de> for List<T> {
    fn other() -> Self {
        Self::Other
    }

    fn null() -> Self {
        Self::Absent
    }

    fn array<A: SeqAccess<'de>>(mut elements: A) -> Result<Self, A::Error> {
        let mut read = Vec::new();
        while let Some(element) = elements.next_element()? {
            read.push(element);
        }
        Ok(Self::Elements(read))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        lenient::<Text<'de>, D>(value)
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        lenient(value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        lenient(value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        lenient(value)
    }
}

struct Reader<T>(PhantomData<T>);

impl<'de, T: Lenient<'de>> Visitor<'de> for Reader<T> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<T, E> {
        Ok(T::null())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<T, E> {
        Ok(T::flag(value))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<T, E> {
        Ok(T::other())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<T, E> {
        Ok(T::other())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<T, E> {
        Ok(T::other())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        Ok(T::text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<T, E> {
        Ok(T::text(Cow::Borrowed(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<T, A::Error> {
        T::array(elements)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
        T::object(members)
    }
}
