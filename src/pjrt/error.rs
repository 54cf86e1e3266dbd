//! Errors of PJRT plugins and of their use.

use std::fmt;
use std::path::PathBuf;

use hlo::ElementType;

/// The result of every fallible PJRT operation.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the plugin, or of its use.
///
/// Every message is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no file at the plugin's path.
    #[error("{}: no such file (a PJRT plugin was expected)", .path.display())]
    PluginMissing {
        /// The path that was requested.
        path: PathBuf,
    },
    /// The plugin's path names something that cannot be read as a file.
    #[error("{}: cannot be read as a PJRT plugin: {reason}", .path.display())]
    PluginUnreadable {
        /// The path that was requested.
        path: PathBuf,
        /// The message of the operating system.
        reason: String,
    },
    /// The file is not a shared library, or lacks a library that it needs.
    #[error("{}: cannot be loaded as a shared library: {reason}", .path.display())]
    PluginNotLoadable {
        /// The path that was requested.
        path: PathBuf,
        /// The message of the dynamic linker.
        reason: String,
    },
    /// The shared library does not export `GetPjrtApi`.
    #[error("{}: not a PJRT plugin: it has no symbol GetPjrtApi", .path.display())]
    NotAPlugin {
        /// The path that was requested.
        path: PathBuf,
    },
    /// `GetPjrtApi` returned null, or a table too small to hold its own version.
    #[error("{}: not a PJRT plugin: GetPjrtApi returned no usable table", .path.display())]
    NoApi {
        /// The path that was requested.
        path: PathBuf,
    },
    /// The plugin's major version is one whose structures are not known here.
    #[error("{}: its PJRT API is {major}.{minor}, and only 0.x is supported", .path.display())]
    ApiVersion {
        /// The path that was requested.
        path: PathBuf,
        /// Major version of the plugin.
        major: i32,
        /// Minor version of the plugin.
        minor: i32,
    },
    /// The system gives this process too few threads.
    #[error(
        "the system gives this process fewer than {wanted} further threads, which the plugin may \
         need: {reason} (see ulimit -u, and pids.max of the process's group)"
    )]
    NoThreads {
        /// Threads that were tried.
        wanted: usize,
        /// The message of the operating system.
        reason: String,
    },
    /// The plugin was built before the function existed, or leaves it empty.
    #[error("the plugin (PJRT API {major}.{minor}) does not have {call}")]
    MissingFunction {
        /// The function of the PJRT C API.
        call: &'static str,
        /// Major version of the plugin.
        major: i32,
        /// Minor version of the plugin.
        minor: i32,
    },
    /// The plugin refused or failed.
    #[error("{message} ({code}, {call})")]
    Plugin {
        /// The plugin's status code.
        code: ErrorCode,
        /// The plugin's message, its lines joined.
        message: String,
        /// The function of the PJRT C API.
        call: &'static str,
    },
    /// The plugin reported success but returned nothing, or an impossible value.
    #[error("the plugin returned an invalid result from {call}: {what}")]
    BadAnswer {
        /// The function of the PJRT C API.
        call: &'static str,
        /// What is wrong with the returned value.
        what: &'static str,
    },
    /// A buffer or an output has an element type that has no counterpart in HLO as built here.
    #[error("PJRT buffer type {buffer_type} is not supported")]
    UnsupportedElementType {
        /// The number in the enumeration `PJRT_Buffer_Type`.
        buffer_type: u32,
    },
    /// A dimension is negative, or the array has more bytes than can be addressed.
    #[error("{}{dims:?}: invalid array dimensions", .element_type.name())]
    Dimensions {
        /// Element type asked for.
        element_type: ElementType,
        /// Dimensions asked for.
        dims: Vec<i64>,
    },
    /// Host bytes and shape do not fit each other.
    #[error("{}{dims:?} needs {expected} bytes on the host, and {actual} were given", .element_type.name())]
    HostSize {
        /// Element type of the array.
        element_type: ElementType,
        /// Dimensions of the array.
        dims: Vec<i64>,
        /// Bytes that the shape (with its strides) needs.
        expected: usize,
        /// Bytes that were given.
        actual: usize,
    },
    /// A layout is not a permutation of the dimensions, or strides do not fit them.
    #[error("{what} {values:?} does not fit dimensions {dims:?}")]
    Layout {
        /// Which of the two was wrong: `minor_to_major` or `byte_strides`.
        what: &'static str,
        /// The values given.
        values: Vec<i64>,
        /// Dimensions of the array.
        dims: Vec<i64>,
    },
    /// A buffer of one element type was read as another.
    #[error("the buffer holds {} and was read as {}", .actual.name(), .asked.name())]
    ElementTypeMismatch {
        /// What the caller asked for.
        asked: ElementType,
        /// What the buffer holds.
        actual: ElementType,
    },
    /// The buffer was deleted, or donated to an execution.
    #[error("the buffer was deleted or donated")]
    BufferDeleted,
    /// An argument was deleted, or donated to an earlier execution.
    #[error("{program}: argument {index} for device {device} was deleted or donated")]
    ArgumentDeleted {
        /// Name of the program.
        program: String,
        /// Position in the list of devices.
        device: usize,
        /// Position in the device's argument list.
        index: usize,
    },
    /// The argument lists do not match the devices of the executable.
    #[error("{program}: {given} argument lists for {devices} devices")]
    ArgumentLists {
        /// Name of the program.
        program: String,
        /// Lists that were given.
        given: usize,
        /// Devices that the executable runs on.
        devices: usize,
    },
    /// Two devices were given argument lists of different lengths.
    #[error("{program}: device {device} was given {given} arguments, device 0 {expected}")]
    ArgumentCount {
        /// Name of the program.
        program: String,
        /// Position in the list of devices.
        device: usize,
        /// Arguments of that device.
        given: usize,
        /// Arguments of the first device.
        expected: usize,
    },
    /// A device or buffer of one client was handed to another.
    #[error("{what} belongs to another client")]
    ForeignObject {
        /// What was handed over.
        what: &'static str,
    },
    /// A device assignment does not have one device per replica and partition.
    #[error(
        "device assignment of {given} devices for {replicas} replicas of {partitions} partitions"
    )]
    DeviceAssignment {
        /// Devices in the assignment.
        given: usize,
        /// Replicas asked for.
        replicas: usize,
        /// Partitions asked for.
        partitions: usize,
    },
    /// The bytes are not a serialized program of this plugin.
    #[error("the serialized program cannot be loaded: {reason}")]
    SerializedProgram {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A plugin needs an environment variable that can no longer be set.
    #[error(
        "{name} is not set, and can only be set before the process starts threads: start it with {name}={value}"
    )]
    Environment {
        /// The variable.
        name: &'static str,
        /// The value that it needs.
        value: &'static str,
    },
    /// A number does not fit the C type that carries it.
    #[error("{what} {value} is out of range")]
    OutOfRange {
        /// What the number counts.
        what: &'static str,
        /// The number.
        value: u64,
    },
}

impl Error {
    /// The plugin's status code, where the plugin itself reported the error.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Plugin { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the plugin reports that it does not implement the function.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Error::MissingFunction { .. })
            || self.code() == Some(ErrorCode::Unimplemented)
    }
}

/// Status codes of the PJRT C API (those of absl::Status).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // The names are the documentation; absl::StatusCode defines them.
pub enum ErrorCode {
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
    /// A number that absl::StatusCode does not define.
    Other(u32),
}

impl ErrorCode {
    pub(super) fn from_raw(code: u32) -> ErrorCode {
        use ErrorCode::*;
        match code {
            1 => Cancelled,
            2 => Unknown,
            3 => InvalidArgument,
            4 => DeadlineExceeded,
            5 => NotFound,
            6 => AlreadyExists,
            7 => PermissionDenied,
            8 => ResourceExhausted,
            9 => FailedPrecondition,
            10 => Aborted,
            11 => OutOfRange,
            12 => Unimplemented,
            13 => Internal,
            14 => Unavailable,
            15 => DataLoss,
            16 => Unauthenticated,
            other => Other(other),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ErrorCode::*;
        f.write_str(match self {
            Cancelled => "CANCELLED",
            Unknown => "UNKNOWN",
            InvalidArgument => "INVALID_ARGUMENT",
            DeadlineExceeded => "DEADLINE_EXCEEDED",
            NotFound => "NOT_FOUND",
            AlreadyExists => "ALREADY_EXISTS",
            PermissionDenied => "PERMISSION_DENIED",
            ResourceExhausted => "RESOURCE_EXHAUSTED",
            FailedPrecondition => "FAILED_PRECONDITION",
            Aborted => "ABORTED",
            OutOfRange => "OUT_OF_RANGE",
            Unimplemented => "UNIMPLEMENTED",
            Internal => "INTERNAL",
            Unavailable => "UNAVAILABLE",
            DataLoss => "DATA_LOSS",
            Unauthenticated => "UNAUTHENTICATED",
            Other(code) => return write!(f, "status {code}"),
        })
    }
}

/// Joins the lines of a plugin's message, which may contain a stack trace.
pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
