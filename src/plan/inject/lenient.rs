//! Reads JSON of whatever shape. Where something else stands than is expected, that is noted and no error: the API server has its own
//! words for it. Strings are borrowed from what is read, what nobody asks for is skipped, and of the rest no more is kept than there is
//! room for.
use std::{borrow::Cow, cell::Cell, marker::PhantomData};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// How much may still be kept, in bytes of memory: of JSON, `{}` is a whole container.
pub(super) struct Room(Cell<Option<usize>>);

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Cell::new(Some(bytes)))
    }

    /// Whether there is room for one more `T` of an array. Once there is not, there is none for anything.
    pub(super) fn take<T>(&self) -> bool {
        let needed = 2 * size_of::<T>(); // vectors grow by doubling
        self.0.set(self.0.get().and_then(|left| left.checked_sub(needed)));
        !self.is_spent()
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0.get().is_none()
    }
}

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

    fn array<A: SeqAccess<'de>>(mut elements: A, _: &Room) -> Result<Self, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::other())
    }

    fn object<A: MapAccess<'de>>(mut members: A, _: &Room) -> Result<Self, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::other())
    }

    /// Whether an array keeps it.
    fn is_looked_at(&self) -> bool {
        true
    }
}

/// An object some of whose members are looked at.
pub(super) trait Members<'de>: Default {
    /// Reads the value of the member `name`, which is next.
    fn read<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A, room: &Room) -> Result<(), A::Error>;
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
#[derive(Clone, Debug, Default)]
pub(super) enum List<T> {
    /// Nothing, or null.
    #[default]
    Absent,
    Elements(Vec<T>),
    Other,
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

impl<'de, T: Members<'de>> Lenient<'de> for Object<T> {
    fn other() -> Self {
        Self(None)
    }

    fn object<A: MapAccess<'de>>(mut members: A, room: &Room) -> Result<Self, A::Error> {
        let mut object = T::default();
        while let Some(name) = members.next_key_seed(Reader::<Text<'_>>::new(room))? {
            object.read(name.as_str(), &mut members, room)?;
        }
        Ok(Self(Some(object)))
    }
}

impl<'de, T: Lenient<'de>> Lenient<'de> for List<T> {
    fn other() -> Self {
        Self::Other
    }

    fn null() -> Self {
        Self::Absent
    }

    fn array<A: SeqAccess<'de>>(mut elements: A, room: &Room) -> Result<Self, A::Error> {
        let mut kept = Vec::new();
        while let Some(element) = elements.next_element_seed(Reader::<T>::new(room))? {
            if element.is_looked_at() && room.take::<T>() {
                kept.push(element);
            }
        }
        Ok(Self::Elements(kept))
    }
}

/// Reads a `T` from whatever there is.
pub(super) struct Reader<'r, T>(&'r Room, PhantomData<T>);

impl<'r, T> Reader<'r, T> {
    pub(super) fn new(room: &'r Room) -> Self {
        Self(room, PhantomData)
    }
}

impl<'de, T: Lenient<'de>> DeserializeSeed<'de> for Reader<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<T, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de, T: Lenient<'de>> Visitor<'de> for Reader<'_, T> {
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
        T::array(elements, self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
        T::object(members, self.0)
    }
}
