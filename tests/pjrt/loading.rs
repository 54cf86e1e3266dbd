//! What can be wrong with a plugin's file, and what a plugin says of itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gemma_xla::pjrt::{
    Attributes, CallResult, CustomCall, CustomCallHandler, Error, Extension, NamedValue, Operand,
    Plugin,
};

use crate::support::{client, on_both_plugins, plugin};

on_both_plugins! {
    the_api_version_is_one_of_those_known
    attributes_name_the_stablehlo_versions
    the_ffi_and_layouts_extensions_are_there
    loading_again_gives_the_same_plugin
    a_plugin_may_be_used_from_many_threads
    a_custom_call_is_not_registered_once_there_was_a_client
}

/// Loads a plugin without custom calls.
fn load(path: &Path) -> Result<Plugin, Error> {
    load_with(path, &[])
}

fn load_with(path: &Path, custom_calls: &[CustomCallHandler]) -> Result<Plugin, Error> {
    // SAFETY: the tests load installed plugins, the C library, and libraries made here, all of
    // which are sound to load; what is no library is refused before its code would run.
    unsafe { Plugin::load(path, custom_calls) }
}

fn the_api_version_is_one_of_those_known(plugin: &Plugin) {
    let (major, minor) = plugin.api_version();
    assert_eq!(major, 0);
    assert!(minor >= 54, "{minor}");
}

#[test]
fn the_two_plugins_have_different_api_versions() {
    assert_ne!(
        plugin("cpu").api_version(),
        plugin("cpu-next").api_version()
    );
}

fn attributes_name_the_stablehlo_versions(plugin: &Plugin) {
    let attributes = plugin.attributes().unwrap();
    let current = attributes
        .iter()
        .find(|(name, _)| name == "stablehlo_current_version");
    assert!(
        matches!(current, Some((_, NamedValue::Int64List(version))) if version.len() == 3),
        "{attributes:?}"
    );
}

fn the_ffi_and_layouts_extensions_are_there(plugin: &Plugin) {
    for wanted in [Extension::FFI, Extension::LAYOUTS] {
        let extension = plugin.extension(wanted).expect("CPU plugins have it");
        assert_eq!(extension.extension_type(), wanted);
        assert!(extension.struct_size() > 24, "more than the base");
        assert!(!extension.as_ptr().is_null());
    }
    assert!(plugin.extension(u32::MAX).is_none());
}

fn loading_again_gives_the_same_plugin(plugin: &Plugin) {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link.so");
    std::os::unix::fs::symlink(plugin.path(), &link).unwrap();
    let table = |plugin: &Plugin| plugin.extension(Extension::FFI).map(|e| e.as_ptr());
    for path in [plugin.path(), &link] {
        let again = load(path).unwrap();
        assert_eq!(table(&again), table(plugin));
    }
}

fn a_plugin_may_be_used_from_many_threads(plugin: &Plugin) {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let again = load(plugin.path()).unwrap();
                assert!(!again.attributes().unwrap().is_empty());
            });
        }
    });
}

/// A custom call that no program makes.
struct Unused;

impl CustomCall for Unused {
    const TARGET: &'static str = "gemma_xla_test_unused";

    fn call(_: &Attributes<'_>, _: &[Operand<'_>], _: &mut [CallResult<'_>]) -> Result<(), String> {
        Ok(())
    }
}

fn a_custom_call_is_not_registered_once_there_was_a_client(plugin: &Plugin) {
    drop(client(plugin, 1));
    let again = load_with(plugin.path(), &[CustomCallHandler::of::<Unused>()]).unwrap();
    assert!(!again.has_custom_call(Unused::TARGET));
    assert!(!plugin.has_custom_call(Unused::TARGET));
}

#[test]
fn a_custom_call_is_registered_once_however_often_its_plugin_is_loaded() {
    // The head of an extension of type 5 (FFI), its functions, and a count of registrations.
    let (_folder, path) = library(
        "#include <stddef.h>
        static void* count(void*);
        static void* initialize(void* args) { return 0; }
        static struct { size_t size; int type; void* next; void* functions[3]; long count; } ffi =
            { sizeof ffi, 5, 0, { 0, 0, count }, 0 };
        static void* count(void* args) { ffi.count++; return 0; }
        static struct { size_t size; void* extensions; size_t version_size; void* more; int major, minor;
            void* functions[4]; } table =
            { sizeof table, &ffi, 24, 0, 0, 80, { 0, 0, 0, initialize } };
        const void* GetPjrtApi(void) { return &table; }",
    );
    let handlers = [CustomCallHandler::of::<Unused>()];
    let count = |plugin: &Plugin| {
        let extension = plugin.extension(Extension::FFI).unwrap();
        assert_eq!(extension.struct_size(), 56);
        // SAFETY: the extension has the seven words that its source above says; the last is the
        // count, which no other thread changes.
        unsafe { extension.as_ptr().cast::<i64>().add(6).read() }
    };
    let plugin = load(&path).unwrap();
    assert!(!plugin.has_custom_call(Unused::TARGET));
    assert_eq!(count(&plugin), 0);
    for _ in 0..3 {
        let again = load_with(&path, &handlers).unwrap();
        assert!(again.has_custom_call(Unused::TARGET));
        assert_eq!(count(&plugin), 1);
    }
    let link = path.with_file_name("linked.so");
    fs::hard_link(&path, &link).unwrap();
    assert!(
        load_with(&link, &handlers)
            .unwrap()
            .has_custom_call(Unused::TARGET)
    );
    assert_eq!(count(&plugin), 1, "it is the same library");
}

#[test]
fn a_missing_file_is_named() {
    let path = Path::new("/no/such/plugin.so");
    let error = load(path).unwrap_err();
    assert_eq!(error, Error::PluginMissing { path: path.into() });
    assert!(error.to_string().starts_with("/no/such/plugin.so: "));
}

#[test]
fn a_folder_is_no_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(matches!(error, Error::PluginUnreadable { .. }), "{error}");
}

#[test]
fn a_text_file_is_no_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.so");
    fs::write(&path, "no shared library\n").unwrap();
    let error = load(&path).unwrap_err();
    assert!(
        matches!(&error, Error::PluginNotLoadable { path: named, .. } if *named == path),
        "{error}"
    );
    let message = error.to_string();
    assert_eq!(message.matches("notes.so").count(), 1, "{message}");
}

#[test]
fn a_truncated_plugin_is_no_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.so");
    let whole = fs::read(a_shared_library()).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = load(&path).unwrap_err();
    assert!(matches!(error, Error::PluginNotLoadable { .. }), "{error}");
}

#[test]
fn a_shared_library_without_the_symbol_is_no_plugin() {
    let path = a_shared_library();
    assert_eq!(load(&path).unwrap_err(), Error::NotAPlugin { path });
}

#[test]
fn a_plugin_that_answers_null_is_no_plugin() {
    let (_folder, path) = library("const void* GetPjrtApi(void) { return 0; }");
    assert_eq!(load(&path).unwrap_err(), Error::NoApi { path });
}

/// The head of the table: its size, its extensions, and the version with its own size and
/// extensions.
const TABLE: &str = "#include <stddef.h>
    static struct { size_t size; void* extensions; size_t version_size; void* more; int major, minor; } table =";

#[test]
fn a_plugin_of_another_major_version_is_refused() {
    let (_folder, path) = library(&format!(
        "{TABLE} {{ sizeof table, 0, 24, 0, 1, 7 }}; const void* GetPjrtApi(void) {{ return &table; }}"
    ));
    let error = load(&path).unwrap_err();
    assert_eq!(
        error,
        Error::ApiVersion {
            path,
            major: 1,
            minor: 7
        }
    );
}

#[test]
fn a_function_beyond_the_end_of_the_plugins_table_is_an_error() {
    let (_folder, path) = library(&format!(
        "{TABLE} {{ sizeof table, 0, 24, 0, 0, 1 }}; const void* GetPjrtApi(void) {{ return &table; }}"
    ));
    assert_eq!(
        load(&path).unwrap_err(),
        Error::MissingFunction {
            call: "PJRT_Plugin_Initialize",
            major: 0,
            minor: 1
        }
    );
}

#[test]
fn a_table_too_short_for_its_version_is_refused() {
    let (_folder, path) = library(&format!(
        "{TABLE} {{ 16, 0, 24, 0, 0, 1 }}; const void* GetPjrtApi(void) {{ return &table; }}"
    ));
    assert_eq!(load(&path).unwrap_err(), Error::NoApi { path });
}

/// A library that every dynamically linked program has: the C library.
fn a_shared_library() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.contains("/libc.so") || path.contains("/libc-"))
        .expect("the C library is mapped")
        .into()
}

/// A shared library of this C source, made with the compiler that Rust links with.
fn library(source: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let code = folder.path().join("plugin.c");
    let path = folder.path().join("plugin.so");
    fs::write(&code, source).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&path, &code])
        .status()
        .expect("cc, which Rust links with, can be started");
    assert!(status.success());
    (folder, path)
}
