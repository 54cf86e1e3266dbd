//! An HTTP server for a model, with the interfaces of OpenAI, of Text Generation Inference and of
//! Vertex AI.
//!
//! One thread owns the devices. It runs one [`Session`](crate::engine::Session) whose rows are
//! given to requests as they come: a part of a prompt, then a step of all rows that generate, in
//! turn. All programs are compiled before the server says that it is ready. A request's tokens do
//! not depend on the others; with a seed they are those of Flax's `generate` on its prompt alone.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//!
//! use gemma_xla::serve::{ServeOptions, Server};
//! use gemma_xla::{LoadOptions, Model};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::open("gemma-2b-it")?;
//! let server = Server::bind(&ServeOptions::default(), "gemma-2b-it")?;
//! println!("listening on http://{}", server.address());
//! let stop = AtomicBool::new(false); // whoever sets it ends the server
//! let load = || model.into_served(&LoadOptions::default());
//! server.run(load, &stop, |event| println!("{event:?}"))?;
//! # Ok(())
//! # }
//! ```

mod doorway;
mod error;
mod grammar;
mod http;
mod metrics;
mod openapi;
mod options;
mod reply;
mod scheduler;
mod server;

#[doc(hidden)]
pub use doorway::Doorway;
pub use error::{Error, Result};
pub use options::ServeOptions;
pub use server::{Ended, Served, Server, ServerEvent};
