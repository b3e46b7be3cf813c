//! Whether the lengths in the header of a GGUF file fit the file. candle makes room for whatever length it reads.

use std::fs::File;
use std::io::{BufReader, Read};

use candle_core::quantized::gguf_file::Content;

/// The most dimensions of a tensor (GGML_MAX_DIMS).
const MOST_DIMENSIONS: u64 = 4;
const ALIGNMENT: &[u8] = b"general.alignment";
const TEXT: u64 = 8;
const LIST: u64 = 9;

type Checked<T> = Result<T, String>;

/// # Errors
/// The first length that the file has no room for. A file that is not GGUF may pass: candle says so.
pub fn check(file: File, size: u64) -> Checked<()> {
    let mut header = Header { file: BufReader::new(file), left: size, length_bytes: 8 };
    header.number(4)?;
    let version = header.number(4)?;
    header.length_bytes = if version == 1 { 4 } else { 8 };
    let (tensors, entries) = (header.length()?, header.length()?);
    for _ in 0..entries {
        let key = header.text()?;
        let kind = header.number(4)?;
        let value = header.value(kind)?;
        if key == ALIGNMENT && value == Some(0) {
            return Err("general.alignment is 0".into());
        }
    }
    for _ in 0..tensors {
        header.text()?;
        let dimensions = header.number(4)?;
        if dimensions > MOST_DIMENSIONS {
            return Err(format!("a tensor has {dimensions} dimensions, at most {MOST_DIMENSIONS} are known"));
        }
        let sizes = (0..dimensions).map(|_| header.length()).collect::<Checked<Vec<u64>>>()?;
        if sizes.contains(&0) {
            return Err("a tensor has a dimension of 0".into());
        }
        let elements = sizes.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        // At most 8 bytes each.
        elements.and_then(|elements| elements.checked_mul(8)).ok_or(too_long())?;
        header.number(4)?;
        header.number(8)?;
    }
    Ok(())
}

/// # Errors
/// The first tensor that does not end within a file of this size.
pub fn check_tensors(content: &Content, size: u64) -> Checked<()> {
    let room = size.saturating_sub(content.tensor_data_offset);
    let fits = |info: &candle_core::quantized::gguf_file::TensorInfo| {
        let bytes = info.shape.elem_count() / info.ggml_dtype.block_size() * info.ggml_dtype.type_size();
        info.offset.checked_add(bytes as u64).is_some_and(|end| end <= room)
    };
    match content.tensor_infos.iter().find(|(_, info)| !fits(info)) {
        Some((name, _)) => Err(format!("tensor {name} does not end within the file")),
        None => Ok(()),
    }
}

fn too_long() -> String {
    "damaged: a length in its header is more than the file has".into()
}

struct Header {
    file: BufReader<File>,
    /// Bytes of the file behind what was read.
    left: u64,
    /// Bytes of a length.
    length_bytes: u64,
}

impl Header {
    fn bytes(&mut self, count: u64) -> Checked<Vec<u8>> {
        self.left = self.left.checked_sub(count).ok_or_else(too_long)?;
        let mut bytes = Vec::new();
        let read = self.file.by_ref().take(count).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if read as u64 == count { Ok(bytes) } else { Err(too_long()) }
    }

    /// A number of up to 8 bytes.
    fn number(&mut self, bytes: u64) -> Checked<u64> {
        Ok(self.bytes(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn length(&mut self) -> Checked<u64> {
        self.number(self.length_bytes)
    }

    fn text(&mut self) -> Checked<Vec<u8>> {
        let length = self.length()?;
        self.bytes(length)
    }

    /// The bytes of a number. `None` for a kind that is a text, a list, or unknown.
    fn size(kind: u64) -> Option<u64> {
        match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        }
    }

    /// Reads a value; returns it if it is a number.
    fn value(&mut self, kind: u64) -> Checked<Option<u64>> {
        if let Some(size) = Self::size(kind) {
            return self.number(size).map(Some);
        }
        match kind {
            TEXT => self.text().map(|_| None),
            LIST => self.list().map(|()| None),
            _ => Err(format!("a value has the unknown type {kind}")),
        }
    }

    fn list(&mut self) -> Checked<()> {
        let (kind, count) = (self.number(4)?, self.length()?);
        match (kind, Self::size(kind)) {
            (_, Some(size)) => self.bytes(count.checked_mul(size).ok_or_else(too_long)?).map(drop),
            (TEXT, None) => (0..count).try_for_each(|_| self.text().map(drop)),
            // Read by recursion, and in no file of a model.
            _ => Err(format!("a list of values of type {kind} is not supported")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of four or eight bytes, and bytes as they are.
    #[derive(Clone, Copy)]
    enum Part {
        Short(u32),
        Long(u64),
        Bytes(&'static [u8]),
    }
    use Part::{Bytes, Long, Short};

    fn checked(version: u32, counts: [u64; 2], parts: &[Part]) -> Checked<()> {
        let mut bytes = [b"GGUF".as_slice(), &version.to_le_bytes()].concat();
        counts.iter().for_each(|count| bytes.extend(count.to_le_bytes()));
        for part in parts {
            match part {
                Short(number) => bytes.extend(number.to_le_bytes()),
                Long(number) => bytes.extend(number.to_le_bytes()),
                Bytes(other) => bytes.extend(*other),
            }
        }
        let folder = temp_dir::TempDir::new().unwrap();
        std::fs::write(folder.child("x.gguf"), &bytes).unwrap();
        check(File::open(folder.child("x.gguf")).unwrap(), bytes.len() as u64)
    }

    /// An entry with the key `k` and this type of value.
    fn entry(kind: u32, value: &[Part]) -> Checked<()> {
        let mut parts = vec![Long(1), Bytes(b"k"), Short(kind)];
        parts.extend(value);
        checked(3, [0, 1], &parts)
    }

    #[test]
    fn lengths_that_a_file_does_not_have_are_refused() {
        let refused = |result: Checked<()>, says: &str| {
            let problem = result.unwrap_err();
            assert!(problem.contains(says), "{problem}");
        };
        const LENGTH: &str = "a length in its header";
        assert_eq!(checked(3, [0, 0], &[]), Ok(()));
        refused(checked(3, [0, u64::MAX], &[]), LENGTH);
        refused(checked(3, [u64::MAX, 0], &[]), LENGTH);
        refused(checked(3, [0, 1], &[Long(1 << 60)]), LENGTH);
        assert_eq!(entry(8, &[Long(2), Bytes(b"ab")]), Ok(()));
        refused(entry(8, &[Long(u64::MAX), Bytes(b"ab")]), LENGTH);
        assert_eq!(entry(9, &[Short(4), Long(1), Short(7)]), Ok(()));
        refused(entry(9, &[Short(4), Long(1 << 62), Short(7)]), LENGTH);
        refused(entry(9, &[Short(8), Long(1 << 62), Long(0)]), LENGTH);
        refused(entry(9, &[Short(9), Long(1), Short(4), Long(0)]), "a list of values of type 9");
        refused(entry(99, &[]), "unknown type 99");
        let alignment = [Long(17), Bytes(b"general.alignment"), Short(4), Short(0)];
        refused(checked(3, [0, 1], &alignment), "general.alignment is 0");
        let tensor = |dimensions: &[u64]| {
            let mut parts = vec![Long(1), Bytes(b"t"), Short(dimensions.len() as u32)];
            parts.extend(dimensions.iter().map(|it| Long(*it)));
            checked(3, [1, 0], &[parts, vec![Short(0), Long(0)]].into_iter().flatten().collect::<Vec<_>>())
        };
        assert_eq!(tensor(&[2, 3]), Ok(()));
        refused(tensor(&[1 << 32, 1 << 31]), LENGTH);
        refused(tensor(&[1; 5]), "5 dimensions");
        refused(tensor(&[2, 0]), "a dimension of 0");
    }
}
