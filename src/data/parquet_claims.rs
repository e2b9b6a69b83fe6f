//! What the metadata of a Parquet file claims, looked at before the `parquet` crate believes it.
//!
//! The crate recurses as deep as a schema nests and reserves memory for the counts that it finds. A hostile or damaged file
//! can end the process that way, which nobody can catch. So the Thrift bytes are walked here first, without reserving anything.

const MAX_SCHEMA_DEPTH: usize = 64;
/// Pages are about 1 MiB and expand 2 to 20 times. What may be claimed without bytes to show for it: a page of one value,
/// repeated, compresses to almost nothing.
const MAX_UNBACKED_PAGE_BYTES: u64 = 64 << 20;
const MAX_PAGE_EXPANSION: u64 = 1100;

/// Checks the footer's schema: a well-formed tree of sane depth. `None` when it is not.
pub(super) fn check_schema(footer: &[u8]) -> Option<()> {
    let mut thrift = Thrift { bytes: footer };
    let mut field = 0;
    while let Some(kind) = thrift.field(&mut field)? {
        // FileMetaData's field 2 is the schema: elements in depth-first order, each with its number of children.
        if field != 2 || kind != LIST {
            thrift.skip(kind, 0)?;
            continue;
        }
        let (element, count) = thrift.list()?;
        if element != STRUCT {
            return None;
        }
        // How many children each open ancestor still expects; the root is expected by nobody.
        let mut expected = vec![1];
        for _ in 0..count {
            while *expected.last()? == 0 {
                expected.pop();
            }
            *expected.last_mut()? -= 1;
            let children = thrift.schema_element()?;
            if children > count {
                return None;
            }
            if children > 0 {
                expected.push(children);
            }
            if expected.len() > MAX_SCHEMA_DEPTH {
                return None;
            }
        }
        if expected.iter().any(|left| *left > 0) {
            return None;
        }
    }
    Some(())
}

/// Whether an offset index may be decoded: the number of pages that it claims fits in its bytes.
pub(super) fn check_offset_index(index: &[u8]) -> Option<()> {
    let mut thrift = Thrift { bytes: index };
    let mut field = 0;
    while let Some(kind) = thrift.field(&mut field)? {
        thrift.skip(kind, 0)?;
    }
    Some(())
}

/// Whether a page header, at the start of `bytes`, claims a size or a dictionary that its page cannot have.
pub(super) fn is_absurd_page(bytes: &[u8]) -> bool {
    let mut thrift = Thrift { bytes };
    let (mut uncompressed, mut compressed, mut dictionary_values) = (None, None, None);
    let mut id = 0;
    // What is malformed, or longer than `bytes`, the crate refuses without our help.
    while let Some(Some(kind)) = thrift.field(&mut id) {
        let passed = match (id, kind) {
            (2, I32) => thrift.zigzag().map(|value| uncompressed = Some(value)),
            (3, I32) => thrift.zigzag().map(|value| compressed = Some(value)),
            (7, STRUCT) => {
                let mut id = 0;
                match thrift.field(&mut id) {
                    Some(Some(I32)) if id == 1 => dictionary_values = thrift.zigzag(),
                    _ => {}
                }
                None
            }
            _ => thrift.skip(kind, 0),
        };
        if passed.is_none() {
            break;
        }
    }
    let (Some(uncompressed), Some(compressed)) = (uncompressed, compressed) else { return false };
    let (Ok(uncompressed), Ok(compressed)) = (u64::try_from(uncompressed), u64::try_from(compressed)) else {
        return true;
    };
    uncompressed > MAX_UNBACKED_PAGE_BYTES + MAX_PAGE_EXPANSION * compressed
        // A value takes a byte at least.
        || dictionary_values.is_some_and(|values| u64::try_from(values).is_ok_and(|values| values > uncompressed))
}

const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;
const MAX_THRIFT_DEPTH: usize = 32;

/// Thrift's compact protocol, as much of it as walking needs. Every method is `None` on malformed input.
struct Thrift<'a> {
    bytes: &'a [u8],
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn advance(&mut self, length: u64) -> Option<()> {
        self.bytes = self.bytes.get(usize::try_from(length).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next field's type, its id left in `id`; `Some(None)` at the end of the struct.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let header = self.byte()?;
        if header == 0 {
            return Some(None);
        }
        *id = match header >> 4 {
            0 => self.zigzag()?,
            delta => id.checked_add(i64::from(delta))?,
        };
        Some(Some(header & 0x0f))
    }

    /// A list's element type and length. Every element takes a byte at least.
    fn list(&mut self) -> Option<(u8, u64)> {
        let header = self.byte()?;
        let count = match header >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        (count <= self.bytes.len() as u64).then_some((header & 0x0f, count))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > MAX_THRIFT_DEPTH {
            return None;
        }
        match kind {
            // A field's boolean is in its header.
            1 | 2 => Some(()),
            3 => self.advance(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.advance(8),
            8 => {
                let length = self.varint()?;
                self.advance(length)
            }
            LIST | 10 => {
                let (element, count) = self.list()?;
                for _ in 0..count {
                    self.skip_element(element, depth)?;
                }
                Some(())
            }
            11 => {
                let count = self.varint()?;
                if count == 0 {
                    return Some(());
                }
                let kinds = self.byte()?;
                for _ in 0..count {
                    self.skip_element(kinds >> 4, depth)?;
                    self.skip_element(kinds & 0x0f, depth)?;
                }
                Some(())
            }
            STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    /// Inside a collection, a boolean takes a byte.
    fn skip_element(&mut self, kind: u8, depth: usize) -> Option<()> {
        if matches!(kind, 1 | 2) { self.advance(1) } else { self.skip(kind, depth + 1) }
    }

    /// Passes a SchemaElement and returns its number of children (field 5).
    fn schema_element(&mut self) -> Option<u64> {
        let mut children = 0;
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            if id == 5 && kind == I32 {
                children = u64::try_from(self.zigzag()?).ok()?;
            } else {
                self.skip(kind, 0)?;
            }
        }
        Some(children)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer whose field 2 is a schema of elements with these numbers of children, and a few other fields around.
    fn footer(children: &[i64]) -> Vec<u8> {
        let mut bytes = vec![0x15, 0x04, 0x19];
        match children.len() {
            count @ 0..15 => bytes.push((count as u8) << 4 | STRUCT),
            count => {
                bytes.push(0xf0 | STRUCT);
                bytes.extend(varint(count as u64));
            }
        }
        for children in children {
            // Field 4 (name), field 5 (children), end.
            bytes.extend([0x48, 1, b'a', 0x15]);
            bytes.extend(varint(((children << 1) ^ (children >> 63)) as u64));
            bytes.push(0);
        }
        bytes.extend([0x16, 0x02, 0]);
        bytes
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    #[test]
    fn schemas_are_trees_of_sane_size() {
        let check =
            |children: &[i64], expect| assert_eq!(check_schema(&footer(children)).is_some(), expect, "{children:?}");
        check(&[0], true);
        check(&[2, 0, 0], true);
        check(&[2, 1, 0, 0], true);
        check(&[1; 10], false); // the last one's child is missing
        check(&[2, 0], false);
        check(&[1, 0, 0], false); // two roots
        check(&[i64::from(i32::MAX), 0], false);
        check(&[-1, 0], false);
        let nested = |depth: usize| (0..=depth).map(|level| i64::from(level < depth)).collect::<Vec<_>>();
        check(&nested(50), true);
        check(&nested(100_000), false);
    }

    #[test]
    fn malformed_thrift_ends_the_walk() {
        let whole = footer(&[2, 0, 0]);
        for length in 0..whole.len() {
            assert!(check_schema(&whole[..length]).is_none(), "{length}");
        }
        // A list of 2^40 elements in 8 bytes; structs in structs in structs.
        assert!(check_offset_index(&[0x19, 0xfc, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20]).is_none());
        assert!(check_offset_index(&[0x1c; 1 << 20]).is_none());
        assert!(check_offset_index(&[0x19, 0x0c, 0]).is_some());
    }

    #[test]
    fn pages_have_the_size_that_they_claim() {
        // Type, uncompressed size, compressed size; then a dictionary header with its number of values.
        let header = |kind: i64, uncompressed: i64, compressed: i64, values: Option<i64>| {
            let mut bytes = Vec::new();
            for value in [kind, uncompressed, compressed] {
                bytes.push(0x15);
                bytes.extend(varint(((value << 1) ^ (value >> 63)) as u64));
            }
            if let Some(values) = values {
                bytes.extend([0x4c, 0x15]);
                bytes.extend(varint((values << 1) as u64));
            }
            bytes.extend([0; 64]);
            bytes
        };
        let check = |header: Vec<u8>, absurd| assert_eq!(is_absurd_page(&header), absurd, "{header:?}");
        check(header(0, 1 << 20, 300_000, None), false);
        check(header(0, 1 << 20, 40, None), false);
        check(header(0, 1 << 30, 40, None), true);
        check(header(0, -1, 40, None), true);
        check(header(2, 4000, 2000, Some(600)), false);
        check(header(2, 4000, 2000, Some(i64::from(i32::MAX))), true);
    }
}
