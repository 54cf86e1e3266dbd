//! How much memory opening a file may take. A test of its own, in a process of its own: it reads
//! the process's peak.

use std::io;
use std::path::Path;

use gemma_xla::checkpoint::{Checkpoint, ReadAt};

const MIB: u64 = 1 << 20;

/// A file of a terabyte: these bytes, then zeros.
struct Huge(Vec<u8>);

impl ReadAt for Huge {
    fn size(&self) -> u64 {
        1 << 40
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        for (i, byte) in buf.iter_mut().enumerate() {
            *byte = self.0.get(offset as usize + i).copied().unwrap_or(0);
        }
        Ok(())
    }
}

/// A figure of the process's memory, in bytes: `VmPeak` is the most address space that it has had,
/// `VmHWM` the most memory.
fn memory(figure: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with(figure))
        .unwrap();
    let kibibytes = line.split_whitespace().nth(1).unwrap();
    kibibytes.parse::<u64>().unwrap() * 1024
}

/// Lengths of four thousand millions, in every place that has one.
fn boasts() -> Vec<Vec<u8>> {
    let value = |bytes: &[u8]| [&[0x81, 0xa1, b'x'], bytes].concat();
    let inside = |bytes: &[u8]| value(&[&[0xc9, 0xff, 0xff, 0xff, 0xff, 1], bytes].concat());
    let chunked = |bytes: &[u8]| {
        value(
            &[
                &[0x83, 0xb9],
                &b"__msgpack_chunked_array__"[..],
                &[0xc3],
                bytes,
            ]
            .concat(),
        )
    };
    vec![
        vec![0xdf, 0xff, 0xff, 0xff, 0xff],
        vec![0x81, 0xdb, 0xff, 0xff, 0xff, 0xff],
        value(&[0xdf, 0xff, 0xff, 0xff, 0xff]),
        inside(&[]),
        inside(&[0xdd, 0xff, 0xff, 0xff, 0xff]),
        inside(&[0x93, 0xdd, 0xff, 0xff, 0xff, 0xff]),
        inside(&[0x93, 0x91, 0x01, 0xdb, 0xff, 0xff, 0xff, 0xff]),
        inside(&[
            0x93, 0x91, 0x01, 0xa7, b'f', b'l', b'o', b'a', b't', b'3', b'2', 0xc6, 0xff, 0xff,
            0xff, 0,
        ]),
        chunked(b"\xa5shape\xdf\xff\xff\xff\xff"),
        chunked(b"\xa6chunks\xdf\xff\xff\xff\xff"),
    ]
}

/// A file of a terabyte: zeros, then these bytes.
struct Tail(Vec<u8>);

impl ReadAt for Tail {
    fn size(&self) -> u64 {
        1 << 40
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = self.size() - self.0.len() as u64;
        for (at, byte) in (offset..).zip(buf.iter_mut()) {
            let within = at.checked_sub(start).map(|at| at as usize);
            *byte = within.and_then(|at| self.0.get(at).copied()).unwrap_or(0);
        }
        Ok(())
    }
}

/// The same boasts in the other forms: the length of a safetensors header, and that of an archive's
/// directory.
fn other_boasts() -> Vec<(&'static str, Vec<u8>)> {
    let end = |len: u32| {
        let mut record = b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff".to_vec();
        record.extend(len.to_le_bytes());
        record.extend([0; 6]);
        record
    };
    vec![
        ("safetensors", (1_u64 << 39).to_le_bytes().to_vec()),
        ("safetensors", 99_999_999_u64.to_le_bytes().to_vec()),
        ("npz", end(u32::MAX - 1)),
        ("npz", end(1 << 26)),
    ]
}

/// A file of the smallest tensors there can be, so many that they make a mebibyte.
fn crumbs() -> Vec<u8> {
    let mut file = vec![0xdf, 0, 0, 0, 0];
    let mut count = 0_u32;
    while (file.len() as u64) < MIB {
        let name = format!("{count:x}");
        file.push(0xa0 | name.len() as u8);
        file.extend(name.as_bytes());
        file.extend(b"\xc7\x0e\x01\x93\x91\x00\xa8bfloat16\xc4\x00");
        count += 1;
    }
    file[1..5].copy_from_slice(&count.to_be_bytes());
    file
}

#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    // Memory that is reserved and not touched shows in the address space alone, where allocators
    // keep some in stock.
    let before = memory("VmPeak");
    for boast in boasts() {
        let shown = format!("{boast:02x?}");
        Checkpoint::from_msgpack(Path::new("boast"), Huge(boast)).expect_err(&shown);
        assert!(memory("VmPeak") - before < 256 * MIB, "{shown}");
    }

    for (name, boast) in other_boasts() {
        let shown = format!("{boast:02x?}");
        let opened = match name {
            "npz" => Checkpoint::from_npz(Path::new("boast"), Tail(boast)),
            _ => Checkpoint::from_safetensors(Path::new("boast"), Huge(boast)),
        };
        opened.expect_err(&shown);
        assert!(memory("VmPeak") - before < 256 * MIB, "{name} {shown}");
    }

    let file = crumbs();
    let limit = 32 * file.len() as u64;
    let before = memory("VmHWM");
    let checkpoint = Checkpoint::from_msgpack(Path::new("crumbs"), file).unwrap();
    assert!(checkpoint.tensors().len() > 40_000);
    let taken = memory("VmHWM") - before;
    assert!(taken < limit, "{taken} bytes for a file of {MIB}");
}
