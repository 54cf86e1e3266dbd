//! The file `checkpoint` that Orbax wrote until 2024: msgpack of the tree, where an array is the
//! text `PLACEHOLDER://` and the name that it is stored by.

use std::collections::BTreeMap;

use rmp::Marker;

use super::OrbaxProblem;

/// A leaf of a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Its levels, joined by slashes.
    pub(super) name: String,
    /// Whether it is an array that must be stored.
    pub(super) required: bool,
}

const PLACEHOLDER: &[u8] = b"PLACEHOLDER://";
/// The deepest nesting of maps. Gemma's trees have 6.
const MAX_DEPTH: usize = 64;
/// The most bytes of all names together.
const MAX_NAMES: usize = 1 << 26;

/// The arrays by their stored names.
pub(super) fn names(bytes: &[u8]) -> Result<BTreeMap<String, Leaf>, OrbaxProblem> {
    let mut reader = Reader { rest: bytes };
    let mut names = BTreeMap::new();
    let mut total = 0;
    let Some(count) = reader.map()? else {
        return Err(malformed("it is not a map"));
    };
    // For each map around: how many keys are left, and the length of its own path.
    let mut levels = vec![(count, 0)];
    let mut path = String::new();
    while let Some((left, prefix)) = levels.last_mut() {
        path.truncate(*prefix);
        let Some(fewer) = left.checked_sub(1) else {
            levels.pop();
            continue;
        };
        *left = fewer;
        if levels.len() > 1 {
            path.push('/');
        }
        path.push_str(reader.text()?);
        if let Some(count) = reader.map()? {
            if levels.len() == MAX_DEPTH {
                return Err(malformed("its maps are nested too deeply"));
            }
            levels.push((count, path.len()));
            continue;
        }
        match reader.value()? {
            Value::Text(text) => {
                if let Some(stored) = text.strip_prefix(PLACEHOLDER) {
                    let stored = std::str::from_utf8(stored)
                        .map_err(|_| malformed("a name is not UTF-8"))?;
                    total += stored.len() + path.len();
                    if total > MAX_NAMES {
                        return Err(malformed("its names are too long"));
                    }
                    let leaf = Leaf {
                        name: path.clone(),
                        required: true,
                    };
                    names.insert(stored.to_owned(), leaf);
                }
            }
            Value::Array => {
                return Err(OrbaxProblem::Unsupported {
                    what: "an array within the file",
                    found: path,
                    known: "arrays that are stored beside it",
                });
            }
            Value::Other => {}
        }
    }
    match reader.rest {
        [] => Ok(names),
        _ => Err(malformed("bytes follow its end")),
    }
}

fn malformed(what: &str) -> OrbaxProblem {
    OrbaxProblem::Metadata {
        what: what.to_owned(),
    }
}

/// What a value is, as far as it matters here.
enum Value<'a> {
    Text(&'a [u8]),
    Array,
    Other,
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], OrbaxProblem> {
        let (now, later) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| malformed("it is cut short"))?;
        self.rest = later;
        Ok(now)
    }

    /// A length of so many bytes.
    fn length(&mut self, bytes: usize) -> Result<usize, OrbaxProblem> {
        let bytes = self.take(bytes)?;
        Ok(bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
    }

    /// The number of a map's keys, if a map is next.
    fn map(&mut self) -> Result<Option<usize>, OrbaxProblem> {
        let Some(first) = self.rest.first() else {
            return Err(malformed("it is cut short"));
        };
        let width = match Marker::from_u8(*first) {
            Marker::FixMap(count) => {
                self.take(1)?;
                return Ok(Some(count.into()));
            }
            Marker::Map16 => 2,
            Marker::Map32 => 4,
            _ => return Ok(None),
        };
        self.take(1)?;
        Ok(Some(self.length(width)?))
    }

    fn text(&mut self) -> Result<&'a str, OrbaxProblem> {
        match self.value()? {
            Value::Text(text) => {
                std::str::from_utf8(text).map_err(|_| malformed("a name is not UTF-8"))
            }
            _ => Err(malformed("a key is not text")),
        }
    }

    /// Reads a value that is no map.
    fn value(&mut self) -> Result<Value<'a>, OrbaxProblem> {
        let marker = Marker::from_u8(self.take(1)?.first().copied().unwrap_or_default());
        let (width, is_text) = match marker {
            Marker::FixStr(len) => return Ok(Value::Text(self.take(len.into())?)),
            Marker::Str8 => (1, true),
            Marker::Str16 => (2, true),
            Marker::Str32 => (4, true),
            Marker::Bin8 => (1, false),
            Marker::Bin16 => (2, false),
            Marker::Bin32 => (4, false),
            Marker::FixPos(_) | Marker::FixNeg(_) => return Ok(Value::Other),
            Marker::Null | Marker::True | Marker::False => return Ok(Value::Other),
            Marker::U8 | Marker::I8 => return self.take(1).map(|_| Value::Other),
            Marker::U16 | Marker::I16 => return self.take(2).map(|_| Value::Other),
            Marker::U32 | Marker::I32 | Marker::F32 => return self.take(4).map(|_| Value::Other),
            Marker::U64 | Marker::I64 | Marker::F64 => return self.take(8).map(|_| Value::Other),
            Marker::FixExt1 => return self.extension(1),
            Marker::FixExt2 => return self.extension(2),
            Marker::FixExt4 => return self.extension(4),
            Marker::FixExt8 => return self.extension(8),
            Marker::FixExt16 => return self.extension(16),
            Marker::Ext8 => return self.sized_extension(1),
            Marker::Ext16 => return self.sized_extension(2),
            Marker::Ext32 => return self.sized_extension(4),
            _ => {
                return Err(malformed(
                    "it has a list, or a byte that msgpack does not use",
                ));
            }
        };
        let len = self.length(width)?;
        let bytes = self.take(len)?;
        Ok(if is_text {
            Value::Text(bytes)
        } else {
            Value::Other
        })
    }

    fn sized_extension(&mut self, width: usize) -> Result<Value<'a>, OrbaxProblem> {
        let len = self.length(width)?;
        self.extension(len)
    }

    /// Flax's arrays are extensions of type 1, its scalars of others.
    fn extension(&mut self, len: usize) -> Result<Value<'a>, OrbaxProblem> {
        let code = self.take(1)?.first().copied();
        self.take(len)?;
        Ok(if code == Some(1) {
            Value::Array
        } else {
            Value::Other
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_tell_names_with_dots_apart() {
        let mut file = vec![0x82, 0xa3];
        file.extend(b"c.d");
        file.push(0xb1);
        file.extend(b"PLACEHOLDER://c.d");
        file.push(0xa1);
        file.push(b'x');
        file.extend([0x82, 0xa1, b'y', 0xd9, 17]);
        file.extend(b"PLACEHOLDER://x.y");
        file.extend([0xa4]);
        file.extend(b"step");
        file.push(7);
        let names = names(&file).unwrap();
        let found: Vec<_> = names
            .iter()
            .map(|(k, v)| (k.as_str(), v.name.as_str()))
            .collect();
        assert_eq!(found, [("c.d", "c.d"), ("x.y", "x/y")]);
        for cut in 0..file.len() {
            assert!(super::names(&file[..cut]).is_err(), "cut at {cut}");
        }
    }
}
