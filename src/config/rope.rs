//! The rotary embeddings of a configuration, by older keys and newer ones.

use serde_json::Value;

use super::json::Object;
use super::{ConfigError, FLAX_ROPE_THETA, Generation};

/// A layer's rotary embedding: pair `i` of a head turns by `position / factor / base^(2i /
/// head_dim)`, where `i` is below `proportion · head_dim / 2`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base, at least 1.
    pub base: f64,
    /// What positions are divided by ("linear" scaling), more than 0.
    pub factor: f64,
    /// The part of the pairs that turn, the first ones: 1, or less ("proportional"), more than 0.
    pub proportion: f64,
}

/// Those of the two kinds of layers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ropes {
    /// Of layers with a window.
    pub window: RopeConfig,
    /// Of layers without one.
    pub full: RopeConfig,
}

impl RopeConfig {
    /// The usual one.
    fn plain() -> Self {
        Self {
            base: FLAX_ROPE_THETA,
            factor: 1.0,
            proportion: 1.0,
        }
    }
}

/// The base of Gemma 3's and 4's layers without a window.
const FULL_BASE: f64 = 1_000_000.0;
/// The keys of an object that describes a rotary embedding.
const KNOWN: [&str; 5] = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "partial_rotary_factor",
];
/// The kinds of layers, as newer configurations name them.
const WINDOW: &str = "sliding_attention";
const FULL: &str = "full_attention";

/// Reads the rotary embeddings of a generation.
pub(super) fn read(keys: &Object<'_>, generation: Generation) -> Result<Ropes, ConfigError> {
    match generation {
        Generation::Gemma1 => {
            let base = unscaled(keys)?;
            let rope = RopeConfig {
                base,
                ..RopeConfig::plain()
            };
            Ok(Ropes {
                window: rope,
                full: rope,
            })
        }
        Generation::Gemma2 => {
            let parameters = keys.object("rope_parameters")?;
            let rope = described(keys, parameters.as_ref(), "rope_theta", RopeConfig::plain())?;
            Ok(Ropes {
                window: rope,
                full: rope,
            })
        }
        Generation::Gemma3 => by_layer_type(keys, RopeConfig::plain()),
        Generation::Gemma4 => {
            let proportion = 0.25;
            let full = RopeConfig {
                proportion,
                ..RopeConfig::plain()
            };
            by_layer_type(keys, full)
        }
    }
}

/// Those of a generation whose layers with windows have another than those without, for which
/// `full` holds where nothing is said but a base.
fn by_layer_type(keys: &Object<'_>, full: RopeConfig) -> Result<Ropes, ConfigError> {
    let parameters = keys.object("rope_parameters")?;
    if let Some(parameters) = &parameters {
        for name in parameters.names() {
            if ![WINDOW, FULL].contains(&name) {
                let value = parameters.value(name).unwrap_or(&Value::Null);
                let reason = format!("expected {WINDOW} and {FULL}, the types of layers");
                return Err(parameters.bad(name, value, reason));
            }
        }
    }
    let of = |kind| match &parameters {
        Some(parameters) => parameters.object(kind),
        None => Ok(None),
    };
    let (window, full_parameters) = (of(WINDOW)?, of(FULL)?);
    Ok(Ropes {
        // The older key that scales positions is about the layers without a window.
        window: match window {
            Some(window) => {
                let absent = RopeConfig::plain();
                described(keys, Some(&window), "rope_local_base_freq", absent)?
            }
            None => RopeConfig {
                base: base(keys, None, "rope_local_base_freq", FLAX_ROPE_THETA)?,
                ..RopeConfig::plain()
            },
        },
        full: described(
            keys,
            full_parameters.as_ref(),
            "rope_theta",
            RopeConfig {
                base: FULL_BASE,
                ..full
            },
        )?,
    })
}

/// The rotary embedding that `parameters` describes, or, where there are none, `rope_scaling` and
/// `base_key`, which older files have; `absent` is what holds without them.
fn described(
    keys: &Object<'_>,
    parameters: Option<&Object<'_>>,
    base_key: &str,
    absent: RopeConfig,
) -> Result<RopeConfig, ConfigError> {
    let older = keys.object("rope_scaling")?;
    let scaling = parameters.or(older.as_ref());
    Ok(RopeConfig {
        base: base(keys, parameters, base_key, absent.base)?,
        ..match scaling {
            Some(scaling) => scaled(scaling)?,
            None => absent,
        }
    })
}

fn base(
    keys: &Object<'_>,
    parameters: Option<&Object<'_>>,
    key: &str,
    default: f64,
) -> Result<f64, ConfigError> {
    if let Some(parameters) = parameters
        && let Some(base) = parameters.number("rope_theta")?
    {
        return checked_base(parameters, "rope_theta", base);
    }
    match keys.number(key)? {
        Some(base) => checked_base(keys, key, base),
        None => Ok(default),
    }
}

fn checked_base(keys: &Object<'_>, key: &str, base: f64) -> Result<f64, ConfigError> {
    match base >= 1.0 {
        true => Ok(base),
        false => Err(keys.bad(key, &Value::from(base), "it must be at least 1")),
    }
}

/// What a description says of everything but the base.
fn scaled(scaling: &Object<'_>) -> Result<RopeConfig, ConfigError> {
    for name in scaling.names() {
        if let Some(value) = scaling.value(name)
            && !KNOWN.contains(&name)
        {
            let reason = format!(
                "unknown for a rotary embedding (known: {})",
                KNOWN.join(", ")
            );
            return Err(scaling.bad(name, value, reason));
        }
    }
    let mut kind = "default";
    for key in ["rope_type", "type"] {
        match scaling.string(key)? {
            None | Some("default") => {}
            Some(found @ ("linear" | "proportional")) => kind = found,
            Some(other) => {
                let reason =
                    "only the types \"default\", \"linear\" and \"proportional\" are supported";
                return Err(scaling.bad(key, &Value::from(other), reason));
            }
        }
    }
    let proportion_key = "partial_rotary_factor";
    let proportion = scaling.number(proportion_key)?.unwrap_or(1.0);
    let within =
        |key, found: f64, range: std::ops::RangeInclusive<f64>| match range.contains(&found) {
            true => Ok(found),
            false => Err(scaling.bad(
                key,
                &Value::from(found),
                format!("it must be from {} to {}", range.start(), range.end()),
            )),
        };
    // Beyond, angles would leave what float32 can tell apart.
    let factor = |factor| within("factor", factor, 1e-3..=1e6);
    match kind {
        "proportional" => Ok(RopeConfig {
            factor: scaling.number("factor")?.map_or(Ok(1.0), factor)?,
            proportion: within(proportion_key, proportion, 1e-3..=1.0)?,
            ..RopeConfig::plain()
        }),
        _ if proportion != 1.0 => Err(scaling.bad(
            proportion_key,
            &Value::from(proportion),
            "only the type \"proportional\" turns a part of the pairs",
        )),
        "linear" => match scaling.number("factor")? {
            None => Err(scaling.missing("factor")),
            Some(found) => Ok(RopeConfig {
                factor: factor(found)?,
                ..RopeConfig::plain()
            }),
        },
        _ => Ok(RopeConfig::plain()),
    }
}

/// Gemma 1's base stands in `rope_theta`, or, as Transformers 5 writes it, in `rope_parameters`.
/// Scaled positions, which Flax's Gemma does not have, are refused rather than ignored.
fn unscaled(keys: &Object<'_>) -> Result<f64, ConfigError> {
    let parameters = keys.object("rope_parameters")?;
    for (key, scaling) in [
        ("rope_scaling", keys.object("rope_scaling")?.as_ref()),
        ("rope_parameters", parameters.as_ref()),
    ] {
        let Some(scaling) = scaling else { continue };
        for name in ["rope_type", "type"] {
            if scaling.string(name)?.is_some_and(|kind| kind != "default") {
                return Err(keys.bad(
                    key,
                    keys.value(key).unwrap_or(&Value::Null),
                    "Gemma's positions are not scaled; only the type \"default\" is supported",
                ));
            }
        }
    }
    let nested = match &parameters {
        Some(parameters) => parameters.number("rope_theta")?,
        None => None,
    };
    let theta = keys.number("rope_theta")?.or(nested);
    checked_base(keys, "rope_theta", theta.unwrap_or(FLAX_ROPE_THETA))
}
