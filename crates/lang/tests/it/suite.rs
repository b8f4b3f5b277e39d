//! Conformance data, read from the folder that `TIDEWHEEL_CONFORMANCE` names, else from the one beside the project.

use std::path::{Path, PathBuf};

use tidewheel_lang::resolve::{Request, Resolver};

/// The folder, if it is there. A test without it says so and passes over.
pub(crate) fn folder(part: &str) -> Option<PathBuf> {
    let root = std::env::var_os("TIDEWHEEL_CONFORMANCE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"), PathBuf::from);
    let folder = root.join(part);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("not run: there is no conformance data at {}; set TIDEWHEEL_CONFORMANCE", folder.display());
    None
}

/// Names and contents of the files of a folder with one extension, sorted by name.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Answers as the peers that the examples name would.
pub(crate) struct Peers;

impl Resolver for Peers {
    fn fetch(&self, request: &Request) -> Result<Vec<u8>, String> {
        let answer = match &*request.uri {
            uri if uri.ends_with("function.yaml") => {
                "input:\n  schema:\n    document: { type: object }\nset:\n  logged: ${ .message }\n"
            }
            uri if uri.starts_with("http") || uri.starts_with("file") => "{}",
            other => return Err(format!("no peer at {other}")),
        };
        Ok(answer.as_bytes().to_vec())
    }
}
