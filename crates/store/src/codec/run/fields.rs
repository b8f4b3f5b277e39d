//! Fields by number, and the values of runs.
//!
//! A value that several places of a record share is written once and named by its place afterwards; so it is one value in
//! memory again when the record is read.

use std::sync::Arc;

use tidewheel_engine::id::Name;
use tidewheel_engine::run::data::{BlobHash, Data};
use tidewheel_engine::run::eval::Json;

use super::super::{Decoded, name};
use super::wrong;

/// Something that is written as fields.
pub(super) trait Part: Sized {
    /// Writes the fields that differ from their default.
    fn write(&self, to: &mut Writer<'_>);
    /// Reads them back.
    fn read(fields: Fields<'_>, values: &mut Values) -> Decoded<Self>;
}

/// Kinds of values: the first byte.
const INLINE: u8 = 1;
const REFERENCE: u8 = 2;
/// The same as the n-th [`INLINE`] of the record.
const AGAIN: u8 = 3;
/// As [`INLINE`], but not counted.
const ALONE: u8 = 4;

/// Places that are looked at for a value: those of one line, and where lines share their context.
const LOOK_BACK: usize = 32;

/// Wire types of fields.
const NUMBER: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const LENGTH: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// Writes fields.
pub(super) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    /// Values and their numbers, as they were used.
    uses: Vec<(*const Json, u64)>,
    written: u64,
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

impl<'o> Writer<'o> {
    pub(super) fn new(out: &'o mut Vec<u8>) -> Writer<'o> {
        Writer { out, uses: Vec::new(), written: 0 }
    }

    /// A number; nothing for 0.
    pub(super) fn number(&mut self, tag: u32, number: u64) {
        if number != 0 {
            self.present(tag, number);
        }
    }

    /// A number, 0 too.
    pub(super) fn present(&mut self, tag: u32, number: u64) {
        varint(self.out, u64::from(tag) << 3 | NUMBER);
        varint(self.out, number);
    }

    /// A sign; nothing for `false`.
    pub(super) fn flag(&mut self, tag: u32, flag: bool) {
        self.number(tag, u64::from(flag));
    }

    /// A text; nothing for an empty one.
    pub(super) fn text(&mut self, tag: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(tag, text.as_bytes());
        }
    }

    /// A text, if there is one.
    pub(super) fn option(&mut self, tag: u32, text: &Option<Name>) {
        if let Some(text) = text {
            self.bytes(tag, text.as_bytes());
        }
    }

    /// Bytes.
    pub(super) fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        varint(self.out, u64::from(tag) << 3 | LENGTH);
        varint(self.out, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// Fields of their own.
    pub(super) fn within(&mut self, tag: u32, write: impl FnOnce(&mut Self)) {
        varint(self.out, u64::from(tag) << 3 | LENGTH);
        let at = self.out.len();
        self.out.push(0);
        write(self);
        let length = self.out.len() - at - 1;
        if length < 0x80 {
            self.out[at] = length as u8;
        } else {
            // Rare enough that moving the bytes is cheaper than finding the length beforehand.
            let mut prefix = Vec::with_capacity(8);
            varint(&mut prefix, length as u64);
            self.out.splice(at..=at, prefix);
        }
    }

    /// A part.
    pub(super) fn part(&mut self, tag: u32, part: &impl Part) {
        self.within(tag, |to| part.write(to));
    }

    /// Parts, each a field.
    pub(super) fn parts<T: Part>(&mut self, tag: u32, parts: &[T]) {
        parts.iter().for_each(|part| self.part(tag, part));
    }

    /// JSON text.
    pub(super) fn json(&mut self, tag: u32, json: &Json) {
        self.within(tag, |to| to.json_text(json));
    }

    fn json_text(&mut self, json: &Json) {
        serde_json::to_writer(&mut *self.out, json).expect("a vector grows as needed, and keys are texts");
    }

    /// A value that may be in several places of the record.
    pub(super) fn data(&mut self, tag: u32, data: &Data) {
        let Data::Inline { value, .. } = data else { return self.alone(tag, data) };
        let place = Arc::as_ptr(value);
        let known = self.uses.iter().rev().take(LOOK_BACK).find(|(known, _)| std::ptr::eq(*known, place));
        let known = known.map(|(_, number)| *number);
        let number = known.unwrap_or(self.written);
        self.uses.push((place, number));
        if known.is_some() {
            return self.within(tag, |to| {
                to.out.push(AGAIN);
                varint(to.out, number);
            });
        }
        self.written += 1;
        self.inline(tag, INLINE, data);
    }

    /// A value that is in no other place, and every value of a field that was added later.
    pub(super) fn alone(&mut self, tag: u32, data: &Data) {
        self.inline(tag, ALONE, data);
    }

    fn inline(&mut self, tag: u32, kind: u8, data: &Data) {
        self.within(tag, |to| match data {
            Data::Inline { value, size } => {
                to.out.push(kind);
                varint(to.out, u64::from(*size));
                to.json_text(value);
            }
            Data::Ref { hash, size, .. } => {
                to.out.push(REFERENCE);
                to.out.extend_from_slice(&hash.0);
                varint(to.out, *size);
            }
        });
    }
}

/// Values that were read, in order.
#[derive(Default)]
pub(super) struct Values(Vec<Data>);

/// Fields of a record or a part.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// What is in a field.
#[derive(Clone, Copy)]
pub(super) enum Field<'a> {
    /// A number.
    Number(u64),
    /// Bytes, a text, a value or fields.
    Bytes(&'a [u8]),
}

fn take_varint(rest: &mut &[u8]) -> Decoded<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let Some((&byte, later)) = rest.split_first() else { return Err(wrong("it ends in a number")) };
        *rest = later;
        if shift == 63 && byte > 1 {
            break;
        }
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(wrong("a number is too long"))
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Decoded<&'a [u8]> {
    let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
    let (taken, later) = rest.split_at(length.ok_or_else(|| wrong("it is too short"))?);
    *rest = later;
    Ok(taken)
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    /// The next field with its number.
    pub(super) fn next(&mut self) -> Decoded<Option<(u32, Field<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = take_varint(&mut self.rest)?;
        let tag = u32::try_from(key >> 3).map_err(|_| wrong("it has a field of an unknown form"))?;
        let field = match key & 7 {
            NUMBER => Field::Number(take_varint(&mut self.rest)?),
            LENGTH => {
                let length = take_varint(&mut self.rest)?;
                Field::Bytes(take(&mut self.rest, length)?)
            }
            EIGHT_BYTES => Field::Bytes(take(&mut self.rest, 8)?),
            FOUR_BYTES => Field::Bytes(take(&mut self.rest, 4)?),
            _ => return Err(wrong("it has a field of an unknown form")),
        };
        Ok(Some((tag, field)))
    }

    /// All fields, one after another.
    pub(super) fn each(mut self, mut read: impl FnMut(u32, Field<'a>) -> Decoded<()>) -> Decoded<()> {
        while let Some((tag, field)) = self.next()? {
            read(tag, field)?;
        }
        Ok(())
    }
}

impl<'a> Field<'a> {
    pub(super) fn number(self) -> Decoded<u64> {
        match self {
            Field::Number(number) => Ok(number),
            Field::Bytes(_) => Err(wrong("a number is missing")),
        }
    }

    /// A number that has to fit.
    pub(super) fn small<T: TryFrom<u64>>(self) -> Decoded<T> {
        T::try_from(self.number()?).map_err(|_| wrong("a number is too large"))
    }

    pub(super) fn flag(self) -> Decoded<bool> {
        self.number().map(|number| number != 0)
    }

    pub(super) fn bytes(self) -> Decoded<&'a [u8]> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            Field::Number(_) => Err(wrong("bytes are missing")),
        }
    }

    pub(super) fn array<const N: usize>(self) -> Decoded<[u8; N]> {
        self.bytes()?.try_into().map_err(|_| wrong("an id or a hash has a wrong length"))
    }

    pub(super) fn string(self) -> Decoded<String> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| wrong("a text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    pub(super) fn text(self) -> Decoded<Name> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| wrong("a text is not UTF-8"))?;
        Ok(if text.is_empty() { name(String::new()) } else { text.into() })
    }

    pub(super) fn fields(self) -> Decoded<Fields<'a>> {
        self.bytes().map(Fields::new)
    }

    pub(super) fn part<T: Part>(self, values: &mut Values) -> Decoded<T> {
        T::read(self.fields()?, values)
    }

    pub(super) fn json(self) -> Decoded<Json> {
        parse(self.bytes()?)
    }

    pub(super) fn data(self, values: &mut Values) -> Decoded<Data> {
        let Some((&kind, mut body)) = self.bytes()?.split_first() else { return Err(wrong("a value is empty")) };
        match kind {
            INLINE | ALONE => {
                let size = u32::try_from(take_varint(&mut body)?).map_err(|_| wrong("a value is too large"))?;
                let data = Data::Inline { value: Arc::new(parse(body)?), size };
                if kind == INLINE {
                    values.0.push(data.clone());
                }
                Ok(data)
            }
            REFERENCE => {
                let hash = take(&mut body, 32)?.try_into().map_err(|_| wrong("a hash has a wrong length"))?;
                Ok(Data::Ref { hash: BlobHash(hash), size: take_varint(&mut body)?, value: None })
            }
            AGAIN => {
                let number = usize::try_from(take_varint(&mut body)?).ok();
                let known = number.and_then(|number| values.0.get(number));
                known.cloned().ok_or_else(|| wrong("it names a value that it does not have"))
            }
            _ => Err(wrong("a value is of an unknown kind")),
        }
    }
}

fn parse(text: &[u8]) -> Decoded<Json> {
    serde_json::from_slice(text).map_err(|error| wrong(&format!("a value is not JSON: {error}")))
}

/// A name and a value.
impl Part for (Name, Json) {
    fn write(&self, to: &mut Writer<'_>) {
        to.text(1, &self.0);
        to.json(2, &self.1);
    }

    fn read(fields: Fields<'_>, _: &mut Values) -> Decoded<Self> {
        let (mut label, mut json) = (name(String::new()), Json::Null);
        fields.each(|tag, field| {
            match tag {
                1 => label = field.text()?,
                2 => json = field.json()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok((label, json))
    }
}

/// A name and a text.
impl Part for (Name, Name) {
    fn write(&self, to: &mut Writer<'_>) {
        to.text(1, &self.0);
        to.text(2, &self.1);
    }

    fn read(fields: Fields<'_>, _: &mut Values) -> Decoded<Self> {
        let mut pair = (name(String::new()), name(String::new()));
        fields.each(|tag, field| {
            match tag {
                1 => pair.0 = field.text()?,
                2 => pair.1 = field.text()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(pair)
    }
}
