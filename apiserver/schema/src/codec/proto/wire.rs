//! Protobuf's wire form: reading tags and values out of a slice, and writing a message from its end to its start.
//!
//! Reading never copies and never panics. Writing backwards is how gogo-protobuf does it: a message's length is known
//! when its tag is written, so nothing is measured twice and nothing moves.

use crate::facts::{Field, Shape};

/// Why bytes are not protobuf.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("unexpected EOF")]
    Eof,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: illegal tag {0} (wire type {1})")]
    Tag(u64, u8),
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    #[error("proto: wrong wireType = {1} for field {0}")]
    Mismatch(String, u8),
    #[error("proto: exceeded max depth")]
    Depth,
}

impl WireError {
    /// A field that does not have its wire type. Go names the struct's field.
    #[cold]
    pub(in crate::codec) fn mismatch(field: &Field, wire: u8) -> Self {
        let name = match (&field.ty.shape, field.proto) {
            (Shape::Struct(ty), "metadata") => ty.short.to_owned(),
            (_, name) => name[..1].to_uppercase() + &name[1..],
        };
        Self::Mismatch(name, wire)
    }
}

/// A cursor over one message.
#[derive(Clone, Debug)]
pub(in crate::codec) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (i, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 {
            WireError::Eof
        } else {
            WireError::Overflow
        })
    }

    /// The next field's number and wire type; nothing at the end.
    pub fn tag(&mut self) -> Result<Option<(u32, u8)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = u8::try_from(tag & 7).unwrap_or(7);
        match u32::try_from(tag >> 3) {
            Ok(number) if number != 0 => Ok(Some((number, wire))),
            _ => Err(WireError::Tag(tag >> 3, wire)),
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::Eof)?;
        if length > self.rest.len() {
            return Err(WireError::Eof);
        }
        let (head, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(head)
    }

    /// A length-delimited value.
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.varint()?;
        self.take(length)
    }

    pub fn fixed64(&mut self) -> Result<u64, WireError> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    /// Passes over a value of a field that nobody knows. Groups (wire types 3 and 4) nest; proto2 had them, Kubernetes
    /// never did.
    pub fn skip(&mut self, wire: u8) -> Result<(), WireError> {
        let mut depth = 0usize;
        let mut wire = wire;
        loop {
            match wire {
                0 => drop(self.varint()?),
                1 => drop(self.take(8)?),
                2 => drop(self.bytes()?),
                3 => depth += 1,
                4 => depth = depth.checked_sub(1).ok_or(WireError::WireType(4))?,
                5 => drop(self.take(4)?),
                other => return Err(WireError::WireType(other)),
            }
            if depth == 0 {
                return Ok(());
            }
            wire = self.tag()?.ok_or(WireError::Eof)?.1;
        }
    }
}

/// A buffer that grows at its front.
pub(in crate::codec) struct Backwards {
    /// What is written lies at the end, from `at` on.
    buffer: Vec<u8>,
    at: usize,
}

impl Backwards {
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            buffer: vec![0; capacity.max(16)],
            at: capacity.max(16),
        }
    }

    /// Where the message that is about to be written ends. Hand it to [`Self::close`].
    pub fn mark(&self) -> usize {
        self.buffer.len() - self.at
    }

    pub fn prepend(&mut self, bytes: &[u8]) {
        if bytes.len() > self.at {
            let used = self.buffer.len() - self.at;
            let size = (self.buffer.len() * 2).max(used + bytes.len());
            let mut grown = vec![0; size];
            grown[size - used..].copy_from_slice(&self.buffer[self.at..]);
            self.buffer = grown;
            self.at = size - used;
        }
        let start = self.at - bytes.len();
        self.buffer[start..self.at].copy_from_slice(bytes);
        self.at = start;
    }

    pub fn varint(&mut self, mut value: u64) {
        let mut encoded = [0u8; 10];
        let mut length = 0;
        loop {
            let low = u8::try_from(value & 0x7f).unwrap_or(0);
            value >>= 7;
            encoded[length] = if value == 0 { low } else { low | 0x80 };
            length += 1;
            if value == 0 {
                break;
            }
        }
        self.prepend(&encoded[..length]);
    }

    fn tag(&mut self, number: u32, wire: u64) {
        self.varint(u64::from(number) << 3 | wire);
    }

    /// Length and tag of the message written since `mark` was taken.
    pub fn close(&mut self, number: u32, mark: usize) {
        let length = self.mark() - mark;
        self.varint(length as u64);
        self.tag(number, 2);
    }

    pub fn bytes(&mut self, number: u32, bytes: &[u8]) {
        let mark = self.mark();
        self.prepend(bytes);
        self.close(number, mark);
    }

    /// An integer or a bool; negative numbers take ten bytes, as in proto2's int32 and int64.
    pub fn integer(&mut self, number: u32, value: i64) {
        self.varint(value.cast_unsigned());
        self.tag(number, 0);
    }

    pub fn fixed64(&mut self, number: u32, value: u64) {
        self.prepend(&value.to_le_bytes());
        self.tag(number, 1);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.buffer.drain(..self.at);
        self.buffer
    }
}
