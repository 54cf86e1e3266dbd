//! The CPU kernel as XLA programs call it, with both CPU plugins.

mod attention;
mod calls;
mod support;
