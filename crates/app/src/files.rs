//! Files below a folder, found by the ends of their names.

use std::io;
use std::path::{Path, PathBuf};

/// Files of one search; more are a folder that was not meant.
const MAX_FILES: usize = 10_000;
/// Folders inside folders that are looked into.
const MAX_DEPTH: usize = 16;

/// The files in a folder, and in the folders in it, whose names end so, in the order of their paths. Hidden ones and links are passed over.
pub(crate) fn below(folder: &Path, ends: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    gather(folder, ends, 0, &mut files)?;
    files.sort();
    Ok(files)
}

fn gather(folder: &Path, ends: &[&str], depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < MAX_DEPTH {
            gather(&entry.path(), ends, depth + 1, files)?;
        } else if kind.is_file() && ends.iter().any(|end| name.ends_with(end)) {
            if files.len() >= MAX_FILES {
                let all = ends.iter().map(|end| format!("*{end}")).collect::<Vec<_>>().join(", ");
                return Err(io::Error::other(format!("it holds more than {MAX_FILES} files {all}")));
            }
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_folders_and_hidden_ones_and_links_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["b/c/two.test.yaml", "a.test.yaml", "a.yaml", ".x/three.test.yaml", "b/.four.test.yaml"] {
            std::fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            std::fs::write(path(name), "").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), path("b/loop")).unwrap();
        let found = below(folder.path(), &[".test.yaml", ".test.json"]).unwrap();
        assert_eq!(found, [path("a.test.yaml"), path("b/c/two.test.yaml")]);
        assert!(below(&path("none"), &[".yaml"]).is_err());
    }
}
