//! Which instructions a product uses.

use std::fmt;
use std::sync::OnceLock;

use half::bf16;

use super::portable;
use super::tile::Tiles;
#[cfg(target_arch = "x86_64")]
use super::x86;

/// The instructions that a product uses. They differ in speed, and in the last bits of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstructionSet {
    /// AVX-512 with its dot product of bfloat16 pairs. It treats numbers below 2⁻¹²⁶ as zero.
    Avx512Bf16,
    /// AVX-512F; bfloat16 is widened to float32.
    Avx512,
    /// AVX2 and FMA; bfloat16 is widened to float32.
    Avx2,
    /// What every CPU has.
    Portable,
}

impl InstructionSet {
    /// Every instruction set, the fastest first.
    pub const ALL: [InstructionSet; 4] = [
        InstructionSet::Avx512Bf16,
        InstructionSet::Avx512,
        InstructionSet::Avx2,
        InstructionSet::Portable,
    ];

    /// The name in the environment variable that chooses one.
    pub const fn name(self) -> &'static str {
        match self {
            InstructionSet::Avx512Bf16 => "avx512bf16",
            InstructionSet::Avx512 => "avx512",
            InstructionSet::Avx2 => "avx2",
            InstructionSet::Portable => "portable",
        }
    }

    /// The instruction set of that name.
    pub fn named(name: &str) -> Option<InstructionSet> {
        InstructionSet::ALL
            .into_iter()
            .find(|instructions| instructions.name() == name)
    }

    /// Whether this CPU has the instructions.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 =
                || is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            match self {
                InstructionSet::Avx512Bf16 => avx512() && is_x86_feature_detected!("avx512bf16"),
                InstructionSet::Avx512 => avx512(),
                InstructionSet::Avx2 => {
                    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
                }
                InstructionSet::Portable => true,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == InstructionSet::Portable
        }
    }

    /// The fastest instruction set of this CPU.
    pub fn best() -> InstructionSet {
        static BEST: OnceLock<InstructionSet> = OnceLock::new();
        *BEST.get_or_init(|| {
            InstructionSet::ALL
                .into_iter()
                .find(|instructions| instructions.is_available())
                .unwrap_or(InstructionSet::Portable)
        })
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The element type of a product's operands: [`half::bf16`] or [`f32`].
pub trait Element: Sealed {}

impl Element for bf16 {}
impl Element for f32 {}

/// Restricts [`Element`] to the types that there are tiles for.
pub trait Sealed: Copy + Send + Sync + 'static {
    #[doc(hidden)]
    fn tiles(instructions: InstructionSet) -> TilesOf<Self>
    where
        Self: Sized;
}

/// The tiles of an instruction set, hidden from the public interface.
#[doc(hidden)]
pub struct TilesOf<W: 'static>(pub(super) &'static Tiles<W>);

impl Sealed for bf16 {
    fn tiles(instructions: InstructionSet) -> TilesOf<bf16> {
        TilesOf(match instructions {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Bf16 => &x86::BF16_AVX512BF16,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => &x86::BF16_AVX512,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => &x86::BF16_AVX2,
            _ => &portable::BF16,
        })
    }
}

impl Sealed for f32 {
    fn tiles(instructions: InstructionSet) -> TilesOf<f32> {
        TilesOf(match instructions {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Bf16 | InstructionSet::Avx512 => &x86::F32_AVX512,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => &x86::F32_AVX2,
            _ => &portable::F32,
        })
    }
}
