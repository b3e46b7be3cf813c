//! A safetensors file that is read one tensor at a time, so that a model larger than half of the memory loads.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::EngineError;

/// An open file and its table of contents.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// The offset of the tensors' bytes.
    start: u64,
}

/// Bytes of the header's length, which is before the header.
const LENGTH_BYTES: u64 = 8;

impl TensorFile {
    /// # Errors
    /// If the file cannot be read, or its size is not what its header says.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let fail = |problem: String| EngineError::Model { path: path.to_path_buf(), problem };
        let mut file = File::open(path).map_err(|e| fail(e.to_string()))?;
        let size = file.metadata().map_err(|e| fail(e.to_string()))?.len();
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length).map_err(|e| fail(format!("not a safetensors file: {e}")))?;
        let start = u64::from_le_bytes(length).saturating_add(LENGTH_BYTES);
        if start > size {
            return Err(fail(format!("damaged: its header should end at byte {start} of {size}")));
        }
        let mut header = vec![0; (start - LENGTH_BYTES) as usize];
        file.read_exact(&mut header).map_err(|e| fail(e.to_string()))?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| fail(format!("damaged header: {e}")))?;
        let data = metadata.data_len() as u64;
        if data != size - start {
            let found = size - start;
            return Err(fail(format!("damaged: {found} bytes of tensors where its header says {data}")));
        }
        Ok(Self { path: path.to_path_buf(), file, metadata, start })
    }

    /// The names of the tensors.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// A tensor's shape and number format; `None` if there is no such tensor, or candle lacks its format.
    pub fn info(&self, name: &str) -> Option<(&[usize], DType)> {
        let info = self.metadata.info(name)?;
        Some((&info.shape, DType::try_from(info.dtype).ok()?))
    }

    /// Reads a tensor and converts it.
    ///
    /// # Errors
    /// [`EngineError::Model`] if there is no such tensor, it cannot be read, or candle lacks its number format;
    /// [`EngineError::Load`] if there is no room for it.
    pub fn read(&mut self, name: &str, dtype: DType, device: &Device) -> Result<Tensor, EngineError> {
        let (bytes, info) = self.bytes(name)?;
        let stored = DType::try_from(info.dtype).map_err(|e| self.fail(format!("tensor {name}: {e}")))?;
        // Converted on the CPU first, so that a device never holds both.
        let tensor = Tensor::from_raw_buffer(&bytes, stored, &info.shape, &Device::Cpu);
        let tensor = tensor.and_then(|tensor| tensor.to_dtype(dtype)?.to_device(device));
        tensor.map_err(|e| EngineError::Load(format!("tensor {name}: {e}")))
    }

    /// A tensor's bytes as they are in the file, and what they are.
    ///
    /// # Errors
    /// If there is no such tensor, or it cannot be read.
    pub fn bytes(&mut self, name: &str) -> Result<(Vec<u8>, TensorInfo), EngineError> {
        let info = self.metadata.info(name).ok_or_else(|| self.fail(format!("tensor {name} is missing")))?.clone();
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0; end.saturating_sub(begin)];
        let read = self.file.seek(SeekFrom::Start(self.start + begin as u64));
        read.and_then(|_| self.file.read_exact(&mut bytes)).map_err(|e| self.fail(format!("tensor {name}: {e}")))?;
        Ok((bytes, info))
    }

    fn fail(&self, problem: String) -> EngineError {
        EngineError::Model { path: self.path.clone(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a file with this length of its header, and this header. It holds four bytes of tensors.
    fn problem(length: u64, header: &str) -> String {
        let path = std::env::temp_dir().join(format!("engine-file-{}-{length}", std::process::id()));
        std::fs::write(&path, [&length.to_le_bytes(), header.as_bytes(), &[0; 4]].concat()).unwrap();
        let opened = TensorFile::open(&path).map(drop);
        std::fs::remove_file(path).unwrap();
        opened.map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[test]
    fn lengths_that_a_file_does_not_have_are_refused() {
        let check = |header: &str, says: &str| {
            let problem = problem(header.len() as u64, header);
            assert!(problem.contains(says) && says.is_empty() == problem.is_empty(), "{problem}");
        };
        check(r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#, "");
        check(r#"{"a": {"dtype": "U8", "shape": [99], "data_offsets": [0, 99]}}"#, "4 bytes of tensors");
        let tensor = |i: u64| {
            let (size, from) = (u64::MAX >> 3, i * (u64::MAX >> 3));
            format!("\"{i}\": {{\"dtype\": \"U8\", \"shape\": [{size}], \"data_offsets\": [{from}, {}]}}", from + size)
        };
        let most = (0..8).map(tensor).collect::<Vec<_>>().join(", ");
        check(&format!("{{{most}}}"), "4 bytes of tensors");
        check(
            r#"{"a": {"dtype": "F32", "shape": [9223372036854775807, 8], "data_offsets": [0, 4]}}"#,
            "damaged header",
        );
        for length in [u64::MAX, 1 << 62, 100] {
            assert!(problem(length, "{}").contains("its header should end at byte"));
        }
    }
}
