//! Archives of packages, unpacked with distrust: only plain files and folders, only below the target, within bounds that
//! no honest package reaches. It looks at what comes out, not at what the archive says about itself.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use crate::error::Error;

const MAX_MEMBERS: usize = 100_000;
const MAX_BYTES: u64 = 2 << 30;
const MAX_RATIO: u64 = 200;
/// Small archives of repetitive text compress better than the bound and harm nobody.
const RATIO_FREE: u64 = 16 << 20;
const MAX_NAME: usize = 1024;

/// Unpacks a zip (also a wheel) or a gzipped tar. Returns the bytes written.
pub(crate) fn unpack(archive: &Path, target: &Path) -> Result<u64, Error> {
    unpack_some(archive, target, &|_| true)
}

/// The same with the members of a zip whose names are wanted; the others need not be there. A tar has no such choice.
pub(crate) fn unpack_some(archive: &Path, target: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<u64, Error> {
    let mut file = File::open(archive).map_err(Error::file("read", archive))?;
    let size = file.metadata().map_err(Error::file("read", archive))?.len();
    let mut magic = [0u8; 4];
    let short = file.read_exact(&mut magic).is_err();
    let file = File::open(archive).map_err(Error::file("read", archive))?;
    let mut out = Target { root: target, archive_bytes: size, bytes: 0, members: 0, seen: HashSet::new() };
    match magic {
        [b'P', b'K', ..] if !short => zip_members(file, &mut out, wanted)?,
        [0x1f, 0x8b, ..] if !short => tar_members(file, &mut out)?,
        _ => return Err(bad("it is neither a zip archive nor a gzipped tar archive")),
    }
    Ok(out.bytes)
}

fn bad(why: impl std::fmt::Display) -> Error {
    Error::Package(format!("the package is refused: {why}"))
}

/// A member for which there is no place in an empty folder: another try finds none either.
fn unplaced(verb: &str, name: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    use std::io::ErrorKind;
    let shown = name.chars().take(120).collect::<String>().escape_debug().to_string();
    let other = Error::file(verb, path);
    move |error| match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            bad(format!("the member \"{shown}\" is there as a file and as a folder"))
        }
        ErrorKind::InvalidFilename => bad(format!("the name of the member \"{shown}\" is too long")),
        _ => other(error),
    }
}

struct Target<'a> {
    root: &'a Path,
    archive_bytes: u64,
    bytes: u64,
    members: usize,
    seen: HashSet<PathBuf>,
}

impl Target<'_> {
    /// The path of a member below the root, or why it cannot have one.
    fn place(&mut self, name: &str) -> Result<PathBuf, Error> {
        self.members += 1;
        if self.members > MAX_MEMBERS {
            return Err(bad(format!("it has more than {MAX_MEMBERS} members")));
        }
        let shown = name.chars().take(120).collect::<String>().escape_debug().to_string();
        if name.len() > MAX_NAME || name.contains('\0') || name.contains('\\') {
            return Err(bad(format!("the name of the member \"{shown}\" is not usable")));
        }
        let mut path = PathBuf::new();
        for component in Path::new(name).components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(bad(format!("the member \"{shown}\" would be written outside of its folder")));
                }
            }
        }
        Ok(self.root.join(path))
    }

    fn folder(&mut self, name: &str) -> Result<(), Error> {
        let path = self.place(name)?;
        std::fs::create_dir_all(&path).map_err(unplaced("make", name, &path))
    }

    fn file(&mut self, name: &str, executable: bool, content: &mut dyn Read) -> Result<(), Error> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.place(name)?;
        if path == self.root || !self.seen.insert(path.clone()) {
            return Err(bad(format!("the member \"{}\" is there twice or has no name", name.escape_debug())));
        }
        let parent = path.parent().expect("a member lies below the root");
        std::fs::create_dir_all(parent).map_err(unplaced("make", name, parent))?;
        let mode = if executable { 0o755 } else { 0o644 };
        let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let mut file = opened.map_err(unplaced("write", name, &path))?;
        let mut buffer = [0u8; 64 << 10];
        loop {
            let n = content.read(&mut buffer).map_err(|e| bad(format!("it is damaged: {e}")))?;
            if n == 0 {
                return Ok(());
            }
            self.bytes += n as u64;
            if self.bytes > MAX_BYTES {
                return Err(bad(format!("it unpacks to more than {} MiB", MAX_BYTES >> 20)));
            }
            if self.bytes > RATIO_FREE && self.bytes / MAX_RATIO > self.archive_bytes {
                return Err(bad(format!("it unpacks to more than {MAX_RATIO} times its size")));
            }
            file.write_all(&buffer[..n]).map_err(Error::file("write", &path))?;
        }
    }
}

fn zip_members(file: File, out: &mut Target<'_>, wanted: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    let mut archive = zip::ZipArchive::new(file).map_err(|e| bad(format!("it is damaged: {e}")))?;
    if archive.len() > MAX_MEMBERS {
        return Err(bad(format!("it has more than {MAX_MEMBERS} members")));
    }
    for i in 0..archive.len() {
        if !archive.name_for_index(i).is_some_and(wanted) {
            continue;
        }
        let mut member = archive.by_index(i).map_err(|e| bad(format!("it is damaged: {e}")))?;
        let name = member.name().to_owned();
        let mode = member.unix_mode().unwrap_or(0);
        let kind = mode & libc::S_IFMT;
        if kind != 0 && kind != libc::S_IFREG && kind != libc::S_IFDIR {
            return Err(bad(format!("the member \"{}\" is a link or a device", name.escape_debug())));
        }
        if member.is_dir() {
            out.folder(&name)?;
        } else {
            out.file(&name, mode & 0o111 != 0, &mut member)?;
        }
    }
    Ok(())
}

fn tar_members(file: File, out: &mut Target<'_>) -> Result<(), Error> {
    let damaged = |e: std::io::Error| bad(format!("it is damaged: {e}"));
    // The bound also holds for what lies between the members, which a decoder would otherwise unpack without end.
    let plain = flate2::read::MultiGzDecoder::new(std::io::BufReader::new(file)).take(MAX_BYTES + (256 << 20));
    let mut archive = tar::Archive::new(plain);
    for member in archive.entries().map_err(damaged)? {
        let mut member = member.map_err(damaged)?;
        let name = String::from_utf8(member.path_bytes().into_owned())
            .map_err(|_| bad("the name of a member is not UTF-8"))?;
        let mode = member.header().mode().unwrap_or(0);
        match member.header().entry_type() {
            tar::EntryType::Directory => out.folder(&name)?,
            tar::EntryType::Regular | tar::EntryType::Continuous => out.file(&name, mode & 0o111 != 0, &mut member)?,
            tar::EntryType::XGlobalHeader => {}
            _ => return Err(bad(format!("the member \"{}\" is a link or a device", name.escape_debug()))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zip::write::SimpleFileOptions;

    fn zip_with(members: &[(&str, u32, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut zip = zip::ZipWriter::new(file.reopen().expect("it opens"));
        for (name, mode, content) in members {
            let options = SimpleFileOptions::default().unix_permissions(*mode);
            zip.start_file(*name, options).expect("a member");
            zip.write_all(content).expect("content");
        }
        zip.finish().expect("an archive");
        file
    }

    fn refused(archive: &Path) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let target = dir.path().join("in");
        std::fs::create_dir(&target).expect("a folder");
        let error = unpack(archive, &target).expect_err("it is refused").to_string();
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1, "nothing was written outside");
        error
    }

    #[test]
    fn members_outside_of_the_folder_are_refused() {
        for name in ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil"] {
            let archive = zip_with(&[("ok.py", 0o644, b"1"), (name, 0o644, b"x")]);
            assert!(refused(archive.path()).contains("evil"), "{name}");
        }
    }

    #[test]
    fn members_without_a_place_are_refused_for_good() {
        let long = "a".repeat(256);
        for names in [["x", "x/y"], ["x/y", "x"], ["ok", &long]] {
            let archive = zip_with(&names.map(|name| (name, 0o644, &b"1"[..])));
            let dir = tempfile::tempdir().expect("a folder");
            let error = unpack(archive.path(), dir.path()).expect_err("it is refused");
            assert!(matches!(error, Error::Package(_)) && !error.is_retryable(), "{error}");
            let told = error.to_string();
            assert!(told.contains("member \"x") || told.contains("member \"aaa"), "{told}");
        }
    }

    #[test]
    fn a_zip_bomb_is_refused_before_it_fills_the_disk() {
        let archive = zip_with(&[("zeros", 0o644, &vec![0u8; 64 << 20])]);
        assert!(refused(archive.path()).contains("times its size"));
    }

    #[test]
    fn links_and_devices_are_refused() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let gz = flate2::write::GzEncoder::new(file.reopen().expect("it opens"), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "link", "/etc/passwd").expect("a member");
        tar.into_inner().and_then(flate2::write::GzEncoder::finish).expect("an archive");
        assert!(refused(file.path()).contains("link or a device"));

        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut zip = zip::ZipWriter::new(file.reopen().expect("it opens"));
        zip.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).expect("a member");
        zip.finish().expect("an archive");
        assert!(refused(file.path()).contains("link or a device"));
    }

    #[test]
    fn too_many_members_and_other_files_are_refused() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut zip = zip::ZipWriter::new(file.reopen().expect("it opens"));
        for i in 0..=MAX_MEMBERS {
            let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            zip.start_file(format!("{i}"), options).expect("a member");
        }
        zip.finish().expect("an archive");
        assert!(refused(file.path()).contains("members"));
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), b"MZ not an archive").expect("written");
        assert!(refused(file.path()).contains("neither"));
    }

    #[test]
    fn plain_archives_are_unpacked() {
        let archive = zip_with(&[("pkg/a.py", 0o644, b"a = 1"), ("run.sh", 0o755, b"#!/bin/sh")]);
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(unpack(archive.path(), dir.path()).expect("it unpacks"), 14);
        assert_eq!(std::fs::read(dir.path().join("pkg/a.py")).expect("there"), b"a = 1");
    }
}
