//! stub
use std::path::PathBuf;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct Error;
pub fn find(_d: &str) -> Result<PathBuf, Error> {
    Ok(std::env::var("GEMMA_XLA_PLUGIN_CPU").unwrap().into())
}
