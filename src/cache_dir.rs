//! Where the program keeps what it can make or fetch again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Reads an environment variable; one that is empty counts as not set.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The process's environment.
pub(crate) fn process_variables(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The folder that the variable `own` names, else `gemma-xla/leaf` in `$XDG_CACHE_HOME` or in
/// `~/.cache`; none where no variable says.
pub(crate) fn cache_dir(variables: Variables, own: &str, leaf: &str) -> Option<PathBuf> {
    if let Some(folder) = variables(own) {
        return Some(folder.into());
    }
    // The XDG specification has relative paths there ignored.
    variables("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(Path::new(&variables("HOME")?).join(".cache")))
        .map(|cache| cache.join("gemma-xla").join(leaf))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(set: &[(&str, &str)]) -> Option<PathBuf> {
        let variables = |name: &str| {
            let (_, value) = set.iter().find(|(set, _)| *set == name)?;
            Some(value.into())
        };
        cache_dir(&variables, "OWN", "plugins")
    }

    #[test]
    fn the_own_variable_comes_before_the_cache_and_the_cache_before_home() {
        let all = [
            ("OWN", "/own"),
            ("XDG_CACHE_HOME", "/cache"),
            ("HOME", "/home/someone"),
        ];
        assert_eq!(folder_with(&all), Some("/own".into()));
        assert_eq!(
            folder_with(&all[1..]),
            Some("/cache/gemma-xla/plugins".into())
        );
        assert_eq!(
            folder_with(&all[2..]),
            Some("/home/someone/.cache/gemma-xla/plugins".into())
        );
        assert_eq!(folder_with(&[]), None);
    }

    #[test]
    fn a_relative_cache_folder_is_ignored() {
        let set = [("XDG_CACHE_HOME", "cache"), ("HOME", "/home/someone")];
        assert_eq!(
            folder_with(&set),
            Some("/home/someone/.cache/gemma-xla/plugins".into())
        );
    }
}
