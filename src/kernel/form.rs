//! Which instructions a product is made of.

use std::fmt;
use std::sync::OnceLock;

use half::bf16;

use super::portable;
use super::tile::Tiles;
#[cfg(target_arch = "x86_64")]
use super::x86;

/// The instructions that a product is made of. They differ in speed, and in the last bits of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Form {
    /// AVX-512 with its dot product of bfloat16 pairs. Numbers below 2⁻¹²⁶ count as zero in it.
    Avx512Bf16,
    /// AVX-512F; bfloat16 is widened to float32.
    Avx512,
    /// AVX2 and FMA; bfloat16 is widened to float32.
    Avx2,
    /// What every CPU has.
    Portable,
}

impl Form {
    /// Every form, the fastest first.
    pub const ALL: [Form; 4] = [Form::Avx512Bf16, Form::Avx512, Form::Avx2, Form::Portable];

    /// The name in the environment variable that chooses one.
    pub const fn name(self) -> &'static str {
        match self {
            Form::Avx512Bf16 => "avx512bf16",
            Form::Avx512 => "avx512",
            Form::Avx2 => "avx2",
            Form::Portable => "portable",
        }
    }

    /// The form of that name.
    pub fn named(name: &str) -> Option<Form> {
        Form::ALL.into_iter().find(|form| form.name() == name)
    }

    /// Whether this CPU has the instructions.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 =
                || is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            match self {
                Form::Avx512Bf16 => avx512() && is_x86_feature_detected!("avx512bf16"),
                Form::Avx512 => avx512(),
                Form::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
                Form::Portable => true,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Form::Portable
        }
    }

    /// The fastest form that this CPU has.
    pub fn best() -> Form {
        static BEST: OnceLock<Form> = OnceLock::new();
        *BEST.get_or_init(|| {
            Form::ALL
                .into_iter()
                .find(|form| form.is_available())
                .unwrap_or(Form::Portable)
        })
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The element type of a product's operands: [`half::bf16`] or [`f32`].
pub trait Element: Sealed {}

impl Element for bf16 {}
impl Element for f32 {}

/// Keeps [`Element`] to the types that there are tiles for.
pub trait Sealed: Copy + Send + Sync + 'static {
    #[doc(hidden)]
    fn tiles(form: Form) -> TilesOf<Self>
    where
        Self: Sized;
}

/// The tiles of a form, out of the public's sight.
#[doc(hidden)]
pub struct TilesOf<W: 'static>(pub(super) &'static Tiles<W>);

impl Sealed for bf16 {
    fn tiles(form: Form) -> TilesOf<bf16> {
        TilesOf(match form {
            #[cfg(target_arch = "x86_64")]
            Form::Avx512Bf16 => &x86::BF16_AVX512BF16,
            #[cfg(target_arch = "x86_64")]
            Form::Avx512 => &x86::BF16_AVX512,
            #[cfg(target_arch = "x86_64")]
            Form::Avx2 => &x86::BF16_AVX2,
            _ => &portable::BF16,
        })
    }
}

impl Sealed for f32 {
    fn tiles(form: Form) -> TilesOf<f32> {
        TilesOf(match form {
            #[cfg(target_arch = "x86_64")]
            Form::Avx512Bf16 | Form::Avx512 => &x86::F32_AVX512,
            #[cfg(target_arch = "x86_64")]
            Form::Avx2 => &x86::F32_AVX2,
            _ => &portable::F32,
        })
    }
}
