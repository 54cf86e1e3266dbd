//! The template engine, set up as Transformers sets up Jinja: what its `_compile_jinja_template`
//! gives a template.

use jiff::Zoned;
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind};

use super::error::Raised;
use super::{generation, json, python};

/// The template's name inside of the engine, which its messages give beside a line.
pub(super) const NAME: &str = "chat_template";

/// An environment that holds the parsed template.
pub(super) fn environment(template: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_unknown_method_callback(python::method);
    environment.add_filter("indent", python::indent);
    environment.add_filter("trim", python::trim);
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", raise_exception);
    set_clock(&mut environment, Zoned::now);
    let template = generation::accepted(template).into_owned();
    environment.add_template_owned(NAME, template)?;
    Ok(environment)
}

/// Gives templates `strftime_now`, which formats what `now` says.
pub(super) fn set_clock(environment: &mut Environment<'static>, now: fn() -> Zoned) {
    environment.add_function("strftime_now", move |format: &str| {
        strtime::format(format, &now()).map_err(|problem| {
            let detail = format!("strftime_now: {format:?}: {problem}");
            Error::new(ErrorKind::InvalidOperation, detail)
        })
    });
}

fn raise_exception(words: String) -> Result<(), Error> {
    let raised = Raised(words.clone());
    Err(Error::new(ErrorKind::InvalidOperation, words).with_source(raised))
}
