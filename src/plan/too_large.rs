//! What the compiler says of a program that does not fit.

use serde::{Deserialize, Serialize};

/// A program that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TooLarge {
    /// What the compiler said.
    pub message: String,
    /// Bytes that it says are needed on a device, where it says.
    pub needed_bytes: Option<u64>,
    /// Bytes that it says there are.
    pub available_bytes: Option<u64>,
}

impl TooLarge {
    /// Finds the sizes in what the compiler says.
    pub(super) fn read(message: &str) -> Self {
        let mut sizes = message.split('(').skip(1).filter_map(|rest| {
            let (inside, _) = rest.split_once(')')?;
            size(inside)
        });
        let needed_bytes = sizes.next();
        Self {
            message: message.to_owned(),
            needed_bytes,
            available_bytes: sizes.next(),
        }
    }
}

/// A size as the compiler writes it: `15.75G`, in binary units.
fn size(text: &str) -> Option<u64> {
    let unit = match text.chars().next_back()? {
        'K' => 1_u64 << 10,
        'M' => 1 << 20,
        'G' => 1 << 30,
        'T' => 1 << 40,
        _ => return None,
    };
    let number: f64 = text.get(..text.len() - 1)?.parse().ok()?;
    Some((number * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_numbers_are_read_from_its_message() {
        let found = TooLarge::read(
            "E1000: Ran out of memory on HBM, the total memory required for HLO temporaries (76.50G) exceeds available HBM \
             (15.75G). HLO module: decode.",
        );
        assert_eq!(found.needed_bytes, Some((76 << 30) + (1 << 29)));
        assert_eq!(found.available_bytes, Some(63 << 28));
        let other = TooLarge::read("out of memory (sorry)");
        assert_eq!((other.needed_bytes, other.available_bytes), (None, None));
    }
}
