//! Arrays in the forms that checkpoints come in, written by the description of each and not by the
//! program's own writers.

use std::io::{Cursor, Write};

use gemma_xla::checkpoint::{Checkpoint, Tensor};
use gemma_xla::dtype::DType;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// An array with its bytes in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Array {
    /// An array whose bytes count up, in such a way that no two short runs of them are alike.
    pub fn counting(name: &str, dtype: DType, shape: &[usize]) -> Self {
        let len = shape.iter().product::<usize>() * dtype.size();
        Array {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes: (0..len).map(|i| (i * 7 + i / 256) as u8).collect(),
        }
    }

    pub fn of(tensor: &Tensor) -> Self {
        let mut bytes = vec![0; tensor.byte_len()];
        tensor.read_into(tensor.dtype(), &mut bytes).unwrap();
        Array {
            name: tensor.name().to_owned(),
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            bytes,
        }
    }

    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// numpy's `reshape(shape).transpose(order)`.
    pub fn rearranged(&self, shape: &[usize], order: &[usize]) -> Self {
        let size = self.dtype.size();
        assert_eq!(shape.iter().product::<usize>() * size, self.bytes.len());
        let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
        let new: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
        let mut bytes = Vec::new();
        for mut at in 0..new.iter().product() {
            let mut from = 0;
            for (&axis, &len) in order.iter().zip(&new).rev() {
                from += at % len * stride(axis);
                at /= len;
            }
            bytes.extend(&self.bytes[from * size..][..size]);
        }
        Array {
            shape: new,
            bytes,
            ..self.clone()
        }
    }

    pub fn transposed(&self) -> Self {
        let order: Vec<usize> = (0..self.shape.len()).rev().collect();
        self.rearranged(&self.shape, &order)
    }

    /// numpy's `stack`.
    pub fn stacked(name: String, parts: &[&Array]) -> Self {
        let mut shape = vec![parts.len()];
        shape.extend(&parts[0].shape);
        Array {
            name,
            dtype: parts[0].dtype,
            shape,
            bytes: parts.iter().flat_map(|part| part.bytes.clone()).collect(),
        }
    }
}

/// Everything that a checkpoint has, by name.
pub fn arrays(checkpoint: &Checkpoint) -> Vec<Array> {
    checkpoint.tensors().map(Array::of).collect()
}

/// An npy file's head with this dictionary.
pub fn npy_head(dictionary: &str) -> Vec<u8> {
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend((dictionary.len() as u16 + 1).to_le_bytes());
    head.extend(dictionary.bytes());
    head.push(b'\n');
    head
}

/// An npy file.
pub fn npy(array: &Array, fortran_order: bool) -> Vec<u8> {
    let descr = match array.dtype {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::BF16 => "|V2",
    };
    let shape: String = array.shape.iter().map(|n| format!("{n}, ")).collect();
    let order = if fortran_order { "True" } else { "False" };
    let mut file = npy_head(&format!(
        "{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({shape}), }}"
    ));
    match fortran_order {
        true => file.extend(array.transposed().bytes),
        false => file.extend(&array.bytes),
    }
    file
}

/// A zip archive of these members.
pub fn archive(members: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let options = SimpleFileOptions::default().compression_method(method);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// An npz file.
pub fn npz(arrays: &[Array], method: CompressionMethod) -> Vec<u8> {
    let names: Vec<String> = arrays.iter().map(|a| format!("{}.npy", a.name)).collect();
    let members: Vec<(&str, Vec<u8>)> = names
        .iter()
        .zip(arrays)
        .map(|(name, array)| (name.as_str(), npy(array, false)))
        .collect();
    archive(&members, method)
}

/// A safetensors file with this header and so many zeros after it.
pub fn safetensors_with(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    file
}

/// A safetensors file.
pub fn safetensors(arrays: &[Array]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for array in arrays {
        let dtype = match array.dtype {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
        };
        let begin = data.len();
        data.extend(&array.bytes);
        let value = serde_json::json!({
            "dtype": dtype, "shape": array.shape, "data_offsets": [begin, data.len()],
        });
        header.insert(array.name.clone(), value);
    }
    safetensors_with(&serde_json::Value::Object(header).to_string(), &data)
}
