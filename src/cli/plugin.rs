//! stub
use super::Outcome;
/// x
#[derive(clap::Subcommand)]
pub enum PluginCommand {
    /// x
    List,
}
/// x
pub fn run(_: &PluginCommand) -> anyhow::Result<Outcome> {
    Ok(Outcome::Done)
}
