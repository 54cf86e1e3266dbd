//! Errors of a model's configuration.

use std::path::PathBuf;

/// Why a configuration could not be used. Each message is one line that names the file and, where
/// there is one, the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be opened or read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The configuration file.
        file: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The file is far larger than any configuration.
    #[error("{}: larger than the {limit} bytes that a configuration may have", file.display())]
    TooLarge {
        /// The configuration file.
        file: PathBuf,
        /// The largest size that is read, in bytes.
        limit: u64,
    },
    /// The file is not JSON.
    #[error("{}: not valid JSON", file.display())]
    Json {
        /// The configuration file.
        file: PathBuf,
        /// Where and how the text is malformed.
        #[source]
        source: serde_json::Error,
    },
    /// The file is JSON, but not an object.
    #[error("{}: expected a JSON object, found {found}", file.display())]
    NotAnObject {
        /// The configuration file.
        file: PathBuf,
        /// The value found.
        found: String,
    },
    /// A key without a default is missing or null.
    #[error("{}: key \"{key}\" is missing", file.display())]
    MissingKey {
        /// The configuration file.
        file: PathBuf,
        /// The missing key.
        key: String,
    },
    /// A key's value has the wrong JSON type.
    #[error("{}: key \"{key}\": expected {expected}, found {found}", file.display())]
    WrongType {
        /// The configuration file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What the key holds in a usable configuration.
        expected: &'static str,
        /// The value found, shortened.
        found: String,
    },
    /// A key's value has the right type, but no model can have it.
    #[error("{}: key \"{key}\" is {found}: {reason}", file.display())]
    BadValue {
        /// The configuration file.
        file: PathBuf,
        /// The key.
        key: String,
        /// The value found, shortened.
        found: String,
        /// What a value must satisfy.
        reason: String,
    },
    /// `model_type` names no architecture that this program knows.
    #[error("{}: unknown model_type {found:?} (known: {known})", file.display())]
    UnknownModelType {
        /// The configuration file.
        file: PathBuf,
        /// The type that it names.
        found: String,
        /// The types that are known, comma separated.
        known: String,
    },
    /// `model_type` names a Gemma that this program does not run.
    #[error("{}: model_type \"{found}\" is not supported yet (supported: {known})", file.display())]
    UnsupportedModelType {
        /// The configuration file.
        file: PathBuf,
        /// The type that it names.
        found: String,
        /// The types that are supported, comma separated.
        known: String,
    },
    /// A key that is not known, and may change what the model computes.
    #[error(
        "{}: key \"{key}\" is {found}: not known for model_type \"{model_type}\", and it may change \
         what the model computes",
        file.display()
    )]
    UnknownKey {
        /// The configuration file.
        file: PathBuf,
        /// The key.
        key: String,
        /// Its value, shortened.
        found: String,
        /// The type of the model.
        model_type: &'static str,
    },
    /// An activation function that the reference does not have.
    #[error(
        "{}: key \"hidden_activation\": unknown activation {found:?} (known: {known})",
        file.display()
    )]
    UnknownActivation {
        /// The configuration file.
        file: PathBuf,
        /// The name found.
        found: String,
        /// The names that are known, comma separated.
        known: String,
    },
}
